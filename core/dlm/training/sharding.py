"""FSDP: in which precision sharded tensors compute, made whole for a checkpoint, and sharded again."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.distributed.tensor import DTensor, distribute_tensor

_COMPUTE_DTYPES = {"no": None, "fp16": torch.float16, "bf16": torch.bfloat16}


def precision_policy(mixed_precision: str) -> MixedPrecisionPolicy:
    """How FSDP computes under ``training.mixed_precision``: ``no``, ``fp16`` or ``bf16``.

    Parameters are gathered in that precision, and gradients are summed in float32, over processes and micro-batches.
    What a module returns stays as it is: the objective returns sums and counts, which half precision would round.
    """
    dtype = _COMPUTE_DTYPES[mixed_precision]
    return MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=None if dtype is None else torch.float32)


def is_sharded(module: nn.Module) -> bool:
    """Whether FSDP has spread the parameters of ``module``."""
    return isinstance(module, FSDPModule)


@contextmanager
def unsharded(module: nn.Module) -> Iterator[None]:
    """Let parts of ``module`` be used on their own: what its own forward would gather is gathered meanwhile.

    All processes must enter. ``module`` must have been used as a whole before.
    """
    if not isinstance(module, FSDPModule):
        yield
        return
    module.unshard()
    try:
        yield
    finally:
        module.reshard()


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself, or what all processes hold of it together. All of them must call."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(tree: Any, *, keeps: bool) -> Any:
    """Nested mappings and lists with whole tensors; what was one tensor still is one. All processes must call.

    Args:
        tree: mappings, lists, tensors and whatever else, which stays as it is.
        keeps: whether this process needs the result. Otherwise what is gathered is dropped, tensor by tensor.
    """
    known: dict[int, Tensor] = {}

    def visit(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: visit(inner) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(visit(inner) for inner in value)
        if not isinstance(value, DTensor):
            return value
        if id(value) not in known:
            full = value.full_tensor().detach()
            known[id(value)] = full.cpu() if keeps else full.new_empty(0)
        return known[id(value)]

    return visit(tree)


def like(tensor: Tensor, model: Tensor) -> Tensor:
    """This process's part of a whole tensor, spread as ``model`` is; the tensor itself where that is not spread."""
    if not isinstance(model, DTensor) or tensor.shape != model.shape:
        return tensor
    return distribute_tensor(tensor.to(model.device), model.device_mesh, model.placements, src_data_rank=None)
