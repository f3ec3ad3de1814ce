"""Safetensors files of 5 GB with their index: hashed while they are written, one tensor at a time; read by mmap."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import attrs
import torch
from safetensors import safe_open
from torch import Tensor

from dlm.errors import NonFiniteError
from dlm.training.checkpoints.manifest import NewFolder

MAX_FILE_BYTES = 5 * 10**9
"""Largest file, as transformers has it ("5GB"); one tensor that is larger has a file of its own."""

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Data types in the header of a safetensors file."""


@attrs.frozen
class Layout:
    """Which tensors stand in which file, in which order: known before any of them is."""

    files: Mapping[str, Mapping[str, Tensor]]
    """By name of the file and of the tensor: shape and dtype, values do not matter."""

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], name: str, max_bytes: int = MAX_FILE_BYTES) -> "Layout":
        """Lay out ``tensors`` in ``name`` (``model.safetensors``), or in files numbered as transformers does."""
        groups: list[dict[str, Tensor]] = [{}]
        # Larger items first, so that each tensor starts at a multiple of its own.
        for key in sorted(tensors, key=lambda key: (-tensors[key].itemsize, key)):
            if groups[-1] and sum(each.nbytes for each in groups[-1].values()) + tensors[key].nbytes > max_bytes:
                groups.append({})
            groups[-1][key] = tensors[key]
        if len(groups) == 1:
            return cls({name: groups[0]})
        stem, suffix = Path(name).stem, Path(name).suffix
        return cls({f"{stem}-{i:05}-of-{len(groups):05}{suffix}": group for i, group in enumerate(groups, start=1)})

    def names(self) -> list[str]:
        """The tensors in the order in which they are written."""
        return [name for group in self.files.values() for name in group]

    def write(self, folder: NewFolder, values: Iterator[Tensor], index: str) -> None:
        """Write the files, and the index if there are several.

        Args:
            folder: takes the files.
            values: the tensors in the order of :meth:`names`, each asked for when it is written.
            index: name of the index (``model.safetensors.index.json``).

        Raises:
            OSError: The disk is full or not writable.
        """
        for file_name, group in self.files.items():
            with folder.create(file_name) as file:
                write_safetensors(file, group, values)
        if len(self.files) > 1:
            size = sum(each.nbytes for group in self.files.values() for each in group.values())
            places = {name: file for file, group in self.files.items() for name in group}
            content = {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}
            with folder.create(index) as file:
                file.write((json.dumps(content, indent=2) + "\n").encode())


def write_safetensors(
    file: BinaryIO, group: Mapping[str, Tensor], values: Iterable[Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write one safetensors file from its beginning to its end: the library's own can be neither hashed nor streamed.

    Args:
        file: takes the bytes.
        group: names, shapes and dtypes, in the order of the values.
        values: as many tensors; further ones are left alone.
        metadata: beside ``format: pt``.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    end = 0
    for name, model in group.items():
        start, end = end, end + model.nbytes
        header[name] = {"dtype": _DTYPES[model.dtype], "shape": list(model.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for _, value in zip(group, values, strict=False):
        file.write(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def finite(name: str, tensor: Tensor) -> Tensor:
    """The tensor itself.

    Raises:
        NonFiniteError: It holds numbers that are not finite; such a model is never published.
    """
    if not torch.isfinite(tensor).all():
        raise NonFiniteError(f"{name} holds numbers that are not finite; the checkpoint was not published")
    return tensor


def saved_slices(files: Iterable[Path]) -> Iterator[tuple[str, Any]]:
    """Name and slice of each tensor of safetensors files: indexing one reads what is asked for, by mmap.

    Raises:
        SafetensorError: A file is none.
    """
    for path in files:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                yield name, file.get_slice(name)
