"""Safetensors files that are written one tensor at a time, hashed on the way."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dlm.training.checkpoints.manifest import MANIFEST, NewFolder, write_manifest
from dlm.training.checkpoints.tensor_files import Layout, saved_slices

INDEX = "model.safetensors.index.json"


def tensors() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {
        "b.weight": torch.randn(5, 3),
        "a.weight": torch.randn(4, 7),
        "step": torch.tensor(3.0),
        "half": torch.randn(3).bfloat16(),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "empty": torch.empty(0, 2),
        "transposed": torch.randn(2, 6).T,
    }


def write(folder: Path, max_bytes: int = 10**9) -> tuple[NewFolder, dict[str, Tensor]]:
    values = tensors()
    layout = Layout.of(values, "model.safetensors", max_bytes)
    new = NewFolder(folder)
    layout.write(new, iter([values[name] for name in layout.names()]), INDEX)
    return new, values


def equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        found[name].dtype == each.dtype and torch.equal(found[name], each) for name, each in expected.items()
    )


def test_the_library_reads_what_was_written_and_would_have_written_the_same(tmp_path: Path) -> None:
    _, values = write(tmp_path)
    assert equal(load_file(tmp_path / "model.safetensors"), values)
    save_file({name: each.contiguous() for name, each in values.items()}, tmp_path / "other", metadata={"format": "pt"})
    assert (tmp_path / "model.safetensors").read_bytes() == (tmp_path / "other").read_bytes()


def test_files_are_no_larger_than_they_may_be_and_the_index_finds_each_tensor(tmp_path: Path) -> None:
    _, values = write(tmp_path, max_bytes=120)
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(each.nbytes for each in values.values())
    files = sorted(tmp_path.glob("*.safetensors"))
    assert [file.name for file in files] == [f"model-{i:05}-of-{len(files):05}.safetensors" for i in (1, 2, 3)]
    assert all(sum(each.nbytes for each in load_file(file).values()) <= 120 for file in files)
    assert equal({name: load_file(tmp_path / file)[name] for name, file in index["weight_map"].items()}, values)
    assert equal({name: saved[...] for name, saved in saved_slices(files)}, values)


def test_the_hash_is_that_of_the_file_though_nothing_is_read(tmp_path: Path) -> None:
    new, _ = write(tmp_path)
    with new.create("state.pt") as file:
        torch.save({"tensors": tensors(), "step": 3}, file)
    for name, entry in new.entries.items():
        content = (tmp_path / name).read_bytes()
        assert entry == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (tmp_path / "state.pt").write_bytes(b"")  # what is known is not read again
    write_manifest(tmp_path, new.entries)
    assert json.loads((tmp_path / MANIFEST).read_text())["files"] == new.entries
