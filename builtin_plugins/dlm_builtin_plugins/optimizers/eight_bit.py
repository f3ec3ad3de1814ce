"""8-bit optimizers of bitsandbytes: whether it works here, what falls back to AdamW, embeddings in 32 bits."""

import importlib
import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from dlm_builtin_plugins.optimizers.shared_options import torch_groups
from dlm_plugins import OptimizerFactory, ParameterGroup

_SMALLEST_QUANTISED = 4096
"""Elements a tensor must have for bitsandbytes to quantise its state."""


class OptimizerFallbackWarning(UserWarning):
    """An optimizer could not be built, and another one takes its place."""


def build_or_fall_back(
    name: str,
    arguments: Mapping[str, Any],
    groups: Sequence[ParameterGroup],
    weight_decay: float,
    plain: OptimizerFactory,
) -> Optimizer:
    """``bitsandbytes.optim.<name>``, or what ``plain`` builds where bitsandbytes does not work here.

    Args:
        name: class in ``bitsandbytes.optim``.
        arguments: of its constructor.
        groups: parameters to optimise.
        weight_decay: for the groups that decay.
        plain: builds the optimizer to fall back on.
    """
    try:
        library = _bitsandbytes()
        _try_out(library, name, arguments, _device_of(groups))
    except Exception as error:  # ImportError, OSError, RuntimeError, ...: whatever a broken native part comes up with
        reason = next(iter(str(error).strip().splitlines()), "") or "no reason given"
        warnings.warn(
            f"bitsandbytes does not work here ({type(error).__name__}: {reason}); AdamW takes the place of {name}",
            OptimizerFallbackWarning,
            stacklevel=3,
        )
        return plain.build(groups)
    optimizer: Optimizer = getattr(library.optim, name)(torch_groups(groups, weight_decay), **arguments)
    _keep_embeddings_in_32_bits(library, optimizer, groups)
    return optimizer


def _bitsandbytes() -> Any:
    """The library, imported without its remark about the 4-bit kernels, which optimizers do not use."""
    logger = logging.getLogger("bitsandbytes")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return importlib.import_module("bitsandbytes")
    finally:
        logger.setLevel(level)


def _try_out(library: Any, name: str, arguments: Mapping[str, Any], device: torch.device) -> None:
    """One step on a throw-away tensor: a missing native part shows only when it is called."""
    parameter = torch.nn.Parameter(torch.zeros(_SMALLEST_QUANTISED, device=device))
    parameter.grad = torch.zeros_like(parameter)
    getattr(library.optim, name)([parameter], **arguments).step()


def _device_of(groups: Sequence[ParameterGroup]) -> torch.device:
    parameters = (parameter for group in groups for parameter in group.parameters.values())
    return next((parameter.device for parameter in parameters), torch.device("cpu"))


def _keep_embeddings_in_32_bits(library: Any, optimizer: Any, groups: Sequence[ParameterGroup]) -> None:
    """Override the number of bits for embeddings, by place in the optimizer.

    bitsandbytes keeps such overrides in one manager for the whole process, by place or by ``id`` of the parameter: they
    would reach every other optimizer. So this optimizer gets a manager of its own.
    """
    manager_class = library.optim.GlobalOptimManager
    manager = manager_class.__new__(manager_class)
    manager.initialize()
    for group_index, group in enumerate(groups):
        for index in range(len(group.parameters) if group.is_embedding else 0):
            manager.index2config[group_index, index] = {"optim_bits": 32}
    optimizer.mng = manager
