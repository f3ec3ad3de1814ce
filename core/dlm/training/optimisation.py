"""Which parameters get weight decay, the learning rate schedule with its warm-up, both on resume; bf16 weights."""

import logging
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import PreTrainedModel

from dlm.config import OptimConfig
from dlm_plugins import ParameterGroup

logger = logging.getLogger(__name__)


def parameter_groups(model: PreTrainedModel) -> list[ParameterGroup]:
    """Trainable parameters in groups: embeddings, matrices, and the rest (norms and biases), which does not decay."""
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    embeddings = {id(parameter) for end in ends if isinstance(end, nn.Module) for parameter in end.parameters()}
    groups: dict[tuple[bool, bool], dict[str, nn.Parameter]] = {(True, True): {}, (True, False): {}, (False, False): {}}
    for name, parameter in _trainable(model):
        decays = parameter.ndim >= 2 and not name.endswith("bias")  # those of joined experts are matrices
        groups[decays, decays and id(parameter) in embeddings][name] = parameter
    return [
        ParameterGroup(parameters=parameters, decays=decays, is_embedding=is_embedding)
        for (decays, is_embedding), parameters in groups.items()
        if parameters
    ]


def _trainable(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def warn_of_lost_updates(optimizer: Optimizer) -> None:
    """Say where plain AdamW updates weights of 16 bits: an update below 1/512 of a bf16 weight changes nothing."""
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    dtype = next((each.dtype for each in parameters if each.dtype.itemsize < torch.float32.itemsize), None)
    if dtype is not None and isinstance(optimizer, torch.optim.AdamW):
        logger.warning(
            "model.dtype: %s weights lose the small updates of AdamW; better float32, with training.mixed_precision",
            str(dtype).removeprefix("torch."),
        )


_WITH_WARMUP = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}
"""Names in transformers: its ``constant`` passes over the warm-up in silence."""


def build_scheduler(optim: OptimConfig, optimizer: Optimizer, num_steps: int) -> LRScheduler:
    """The learning-rate schedule of transformers that the run file names, with its warm-up."""
    with without_bitsandbytes():
        from transformers import get_scheduler  # and with it all that transformers' own trainer may need
    warmup = optim.warmup_steps or round(optim.warmup_ratio * num_steps)
    scheduler: LRScheduler = get_scheduler(
        _WITH_WARMUP[optim.lr_scheduler], optimizer, num_warmup_steps=warmup, num_training_steps=num_steps
    )
    return scheduler


def depends_on_num_steps(optim: OptimConfig) -> bool:
    """Whether the learning rate of a step depends on how many steps there are."""
    return optim.lr_scheduler != "constant" or optim.warmup_ratio > 0


def resume_optimizer(optimizer: Optimizer, saved: Mapping[str, Any], options: Collection[str]) -> None:
    """Take over what an optimizer has learned. Its options are those of this run, as ``--allow-change`` may want them.

    Args:
        optimizer: as it was built, of the same parameters.
        saved: of its ``state_dict``.
        options: keys of the run file. Whatever else is in the groups goes on as it was saved.
    """
    own = optimizer.state_dict()["param_groups"]
    groups = [
        {**theirs, **{name: value for name, value in mine.items() if name in options or name == "initial_lr"}}
        for mine, theirs in zip(own, saved["param_groups"], strict=True)
    ]
    optimizer.load_state_dict({**saved, "param_groups": groups})


def resume_scheduler(scheduler: LRScheduler, saved: Mapping[str, Any]) -> None:
    """Go to the step where a schedule was saved, in the course of this run and under its peak."""
    number = saved["_step_count"]
    # One step back, and one forward again. At a count of 1 torch would miss a step of the optimizer.
    back = {"base_lrs": scheduler.base_lrs, "last_epoch": saved["last_epoch"] - 1, "_step_count": number + 1}
    scheduler.load_state_dict({**saved, **back})
    scheduler.step()
    scheduler._step_count = number


@contextmanager
def without_bitsandbytes() -> Iterator[None]:
    """What is imported or asked meanwhile finds no bitsandbytes, unless something has imported it already.

    Its import takes a second, and warns of kernels that nobody asked for. Whoever wants it (an 8-bit optimizer) imports
    it by itself.
    """
    name = "bitsandbytes"
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # so Python notes that a module is not there
    try:
        yield
    finally:
        del sys.modules[name]
        if "peft.import_utils" in sys.modules:
            from peft.import_utils import is_bnb_4bit_available, is_bnb_available

            is_bnb_available.cache_clear()
            is_bnb_4bit_available.cache_clear()
