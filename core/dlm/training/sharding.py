"""Sharded (FSDP) tensors: a model lent whole for sampling, made whole for a checkpoint, and sharded again."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from dlm.diffusion.objective import DiffusionObjective

T = TypeVar("T")


def is_sharded(module: nn.Module) -> bool:
    """Whether FSDP has spread the parameters of ``module``."""
    return isinstance(module, FSDPModule)


def lend(objective: nn.Module, action: Callable[[], T]) -> T:
    """What ``action`` returns, which uses the model of ``objective`` by itself. All processes must call.

    What was compiled runs as it is written meanwhile. A sampler's windows are of many lengths, and each layer has keys
    and values of its own: torch would soon have compiled it as often as it does, and left training uncompiled too.
    """
    with torch.compiler.set_stance("force_eager"):
        if not isinstance(objective, FSDPModule):
            return action()
        assert isinstance(objective, DiffusionObjective)
        try:
            return objective.lend(action)
        finally:
            let_go(objective)


def lend_whole(objective: nn.Module, action: Callable[[], T]) -> T:
    """As :func:`lend`, with all weights gathered once: within ``action``, no process waits for another.

    Processes may go through the model as often as each likes, or not at all.
    """

    def alone() -> T:
        with _gathered(objective):
            return action()

    return lend(objective, alone)


@contextmanager
def _gathered(objective: nn.Module) -> Iterator[None]:
    sharded = [module for module in objective.modules() if isinstance(module, FSDPModule)]
    layers = sharded[1:]  # what belongs to no layer is kept after a forward pass anyway
    for module in layers:
        module.set_reshard_after_forward(False, recurse=False)
    for module in sharded:
        module.unshard()
    try:
        yield
    finally:
        for module in layers:
            module.set_reshard_after_forward(True, recurse=False)
        for module in sharded:
            module.reshard()


def let_go(objective: nn.Module) -> None:
    """Free what a forward pass gathered and kept for a backward pass that does not come."""
    if isinstance(objective, FSDPModule):
        objective.reshard()


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself, or what all processes hold of it together. All of them must call."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def staged(tree: Any, *, keeps: bool) -> Any:
    """Nested mappings and lists with copies of the tensors in host memory, whole. All processes must call.

    What was one tensor still is one. Training may go on while the copies are written.

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
        if not isinstance(value, Tensor):
            return value
        if id(value) not in known:
            full = whole(value).detach()
            is_copy = isinstance(value, DTensor)
            known[id(value)] = full.to("cpu", copy=not is_copy) if keeps else full.new_empty(0)
        return known[id(value)]

    return visit(tree)


def local_copy(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor, copied to host memory."""
    local = tensor.detach()
    return (local.to_local() if isinstance(local, DTensor) else local).to("cpu", copy=True)


def part(saved: Any, model: Tensor, device: torch.device | None = None) -> Tensor:
    """A copy of this process's part of a whole tensor, spread as ``model`` is; no more than that is read.

    Args:
        saved: a tensor, or a slice of a file, of the shape of ``model``.
        model: says how, and where the result lives unless ``device`` does.
        device: of the result.
    """
    device = model.device if device is None else device
    if not isinstance(model, DTensor):
        return _cut(saved, model.shape, (0,) * model.ndim).to(device, copy=True)
    shape, offset = compute_local_shape_and_global_offset(model.shape, model.device_mesh, model.placements)
    local = _cut(saved, shape, offset).to(device, copy=True)
    return DTensor.from_local(
        local, model.device_mesh, model.placements, run_check=False, shape=model.shape, stride=model.stride()
    )


def _cut(saved: Any, shape: Sequence[int], offset: Sequence[int]) -> Tensor:
    cut: Tensor = saved[tuple(slice(start, start + length) for start, length in zip(offset, shape, strict=True))]
    return cut
