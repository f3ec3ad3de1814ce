"""Compare two checkpoints (``dlm analyze``): names, shapes, dtypes and values of their tensors."""

import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from dlm.model.checkpoint_tensors import CheckpointTensors, open_tensors
from dlm.user_paths import user_path

_CHUNK = 2**24
"""Elements compared at a time, so that embeddings of any size fit in memory."""

_EMBEDDING = re.compile(r"embed|wte")
"""Occurs in the name of one of two tensors that are tied."""


class Status(StrEnum):
    """How a tensor of one checkpoint relates to that of the other."""

    EQUAL = "equal"
    TIED = "tied"
    """Missing on one side, where it is tied to a tensor that equals it on the other."""
    VALUES = "values"
    DTYPE = "dtype"
    SHAPE = "shape"
    ONLY_A = "only in A"
    ONLY_B = "only in B"


@attrs.frozen(kw_only=True)
class TensorComparison:
    """One tensor in two checkpoints."""

    name: str
    status: Status
    shape_a: tuple[int, ...] | None = None
    shape_b: tuple[int, ...] | None = None
    dtype_a: str | None = None
    dtype_b: str | None = None
    max_abs_difference: float | None = None
    """Largest difference of values, in float64; NaN where a NaN meets another value. None where shapes differ."""
    num_different: int | None = None
    """Elements whose values differ."""

    @property
    def same(self) -> bool:
        """Whether this tensor makes no difference."""
        return self.status in (Status.EQUAL, Status.TIED)


@attrs.frozen(kw_only=True)
class Comparison:
    """Two checkpoints, tensor by tensor, in the order of their names."""

    path_a: str
    path_b: str
    tensors: tuple[TensorComparison, ...]

    @property
    def same(self) -> bool:
        """Whether the checkpoints hold the same tensors: same names, shapes, dtypes and bits."""
        return all(tensor.same for tensor in self.tensors)


def analyze(path_a: str | Path, path_b: str | Path) -> Comparison:
    """Compare two checkpoints, reading a part of a tensor at a time.

    Args:
        path_a: A folder (one file, or shards with an index) or a ``.safetensors`` file.
        path_b: The same.

    Raises:
        ModelError: One of them cannot be read, with the reason.
    """
    with open_tensors(user_path(path_a)) as a, open_tensors(user_path(path_b)) as b:
        names = sorted(a.slices.keys() | b.slices.keys())
        tensors = tuple(_compare(name, a, b) for name in names)
    return Comparison(path_a=str(path_a), path_b=str(path_b), tensors=tensors)


def _compare(name: str, a: CheckpointTensors, b: CheckpointTensors) -> TensorComparison:
    slice_a, slice_b = a.slices.get(name), b.slices.get(name)
    facts: dict[str, Any] = {"name": name}
    if slice_a is not None:
        facts |= {"shape_a": tuple(slice_a.get_shape()), "dtype_a": slice_a.get_dtype()}
    if slice_b is not None:
        facts |= {"shape_b": tuple(slice_b.get_shape()), "dtype_b": slice_b.get_dtype()}
    if slice_a is None:
        return TensorComparison(status=Status.TIED if _is_tied(name, b, a) else Status.ONLY_B, **facts)
    if slice_b is None:
        return TensorComparison(status=Status.TIED if _is_tied(name, a, b) else Status.ONLY_A, **facts)
    if facts["shape_a"] != facts["shape_b"]:
        return TensorComparison(status=Status.SHAPE, **facts)
    same_bits, largest, count = _difference(slice_a, slice_b)
    status = Status.VALUES
    if facts["dtype_a"] != facts["dtype_b"]:
        status = Status.DTYPE
    elif same_bits:
        status = Status.EQUAL
    return TensorComparison(status=status, max_abs_difference=largest, num_different=count, **facts)


def _is_tied(name: str, full: CheckpointTensors, other: CheckpointTensors) -> bool:
    """Whether tensor ``name`` of ``full`` is left out of ``other`` because it is tied to one that ``other`` has."""
    if other.tie_word_embeddings is False:
        return False
    tensor = full.slices[name]
    shape = tensor.get_shape()
    if len(shape) != 2:
        return False
    twins = {key: twin for key, twin in full.slices.items() if key != name and key in other.slices}
    alike = [
        twin
        for key, twin in twins.items()
        if (_EMBEDDING.search(key) or _EMBEDDING.search(name))
        and twin.get_shape() == shape
        and twin.get_dtype() == tensor.get_dtype()
    ]
    return any(_difference(tensor, twin)[0] for twin in alike)


def _difference(a: Any, b: Any) -> tuple[bool, float, int]:
    """Compare two slices of one shape: same bits, largest absolute difference, number of different values."""
    same_bits, largest, count = True, 0.0, 0
    for part_a, part_b in zip(_parts(a), _parts(b), strict=True):
        if part_a.dtype == part_b.dtype and torch.equal(_bits(part_a), _bits(part_b)):
            continue
        same_bits = False
        wide_a, wide_b = _wide(part_a), _wide(part_b)
        # Equal infinities and two NaNs are no difference of values.
        unequal = (wide_a != wide_b) & ~(wide_a.isnan() & wide_b.isnan())
        count += int(unequal.sum())
        gaps = (wide_a[unequal] - wide_b[unequal]).abs()
        if gaps.numel():
            # Tensor.max passes NaN on, which Python's max would not.
            largest = float(torch.stack([gaps.max(), torch.tensor(largest, dtype=gaps.dtype)]).max())
    return same_bits, largest, count


def _parts(tensor: Any) -> Iterator[Tensor]:
    """The rows of a slice, some at a time; flat."""
    shape = tensor.get_shape()
    if not shape:
        yield tensor[...].reshape(1)
        return
    elements_per_row = max(1, int(torch.Size(shape[1:]).numel()))
    step = max(1, _CHUNK // elements_per_row)
    for start in range(0, shape[0], step):
        yield tensor[start : start + step].reshape(-1)


def _bits(tensor: Tensor) -> Tensor:
    """The bytes of a flat tensor, so that -0.0 and NaN payloads count."""
    return tensor.contiguous().view(torch.uint8)


def _wide(tensor: Tensor) -> Tensor:
    """Float64, on the CPU where checkpoints are read."""
    return tensor.to(torch.float64)
