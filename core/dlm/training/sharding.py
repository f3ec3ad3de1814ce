"""Sharded (FSDP) tensors: a model lent whole for sampling, made whole for a checkpoint, and sharded again."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from dlm.diffusion.objective import DiffusionObjective

T = TypeVar("T")


def is_sharded(module: nn.Module) -> bool:
    """Whether FSDP has spread the parameters of ``module``."""
    return isinstance(module, FSDPModule)


def lend(objective: nn.Module, action: Callable[[], T]) -> T:
    """What ``action`` returns, which uses the model of ``objective`` by itself. All processes must call."""
    if not isinstance(objective, FSDPModule):
        return action()
    assert isinstance(objective, DiffusionObjective)
    try:
        return objective.lend(action)
    finally:
        let_go(objective)


def let_go(objective: nn.Module) -> None:
    """Free what a forward pass gathered and kept for a backward pass that does not come."""
    if isinstance(objective, FSDPModule):
        objective.reshard()


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
