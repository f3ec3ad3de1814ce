"""Trace masking: the states a rollout went through, each scored where its step wrote (TraceRL, trace fine-tuning)."""

from typing import Any, ClassVar, Literal

import attrs
import torch
from torch import Tensor

from dlm_plugins import MaskingRequest, Selection


def _at_least_one(_: object, attribute: Any, value: Any) -> None:
    if isinstance(value, int) and value < 1:
        raise ValueError(f"'{attribute.name}' must be all, or at least 1, not {value}")


@attrs.frozen(kw_only=True)
class TraceMasking:
    """One view for each denoising step: hidden is what that step or a later one wrote, scored what it wrote itself.

    Wang et al. 2025, "TraceRL" (dLLM-RL), arXiv:2509.06949. With ``shrink: 1`` and an order that does not depend on the
    model the scored log-probabilities add up to that of the whole rollout, so that their policy gradient is exact;
    ``shrink`` merges neighbouring steps, and one that is as long as the rollout gives the one-step estimate. ``views``
    draws some of the K states without replacement, each of which then stands for K / n (AGRPO, Zhan 2025,
    arXiv:2510.04019). Where no noisy block sees another one (block diffusion), all blocks go through their own steps
    at once. Positions without a step are never hidden, nor scored.
    """

    follows_rate: ClassVar[bool] = False
    needs_trace: ClassVar[bool] = True

    shrink: int = attrs.field(
        default=1,
        validator=attrs.validators.ge(1),
        metadata={"help": "Number of neighbouring steps that are merged into one state, at least 1."},
    )
    views: Literal["all"] | int = attrs.field(
        default="all",
        validator=_at_least_one,
        metadata={"help": "all: a view for each state; or the number of states drawn for each row."},
    )

    def views_of(self, request: MaskingRequest) -> Tensor:
        """As many as there are states, or the number asked for."""
        num_states = _num_states(self._states(request))
        return num_states if self.views == "all" else num_states.clamp(max=self.views)

    def select(self, request: MaskingRequest) -> Selection:
        """Hide what the view's state had not written yet."""
        state = self._states(request)
        num_states = _num_states(state)[:, None]
        current = request.view_index[:, None]
        if self.views != "all":
            current = _drawn(request.draws.per_position("state"), num_states).gather(1, current)
        mine = (state == current) & request.eligible
        return Selection(
            corrupted=state >= current,
            p_mask=torch.where(request.eligible & (state >= 0), 1.0 / num_states, 0.0),
            scored=mine,
        )

    def _states(self, request: MaskingRequest) -> Tensor:
        """(B, L) int64: number of the state that wrote each position, from 0; -1 where none did."""
        if request.committed_step is None:
            raise ValueError("the trace masking needs the step at which each token was written (step_map)")
        may_hide = request.eligible if request.context is None else request.eligible | request.context
        step = torch.where(may_hide, request.committed_step, -1)
        unit = request.document_id
        if request.blocks_are_separate:
            unit = unit * step.shape[1] + request.block
        return torch.where(step >= 0, _rank_within(unit, step) // self.shrink, -1)


def _rank_within(unit: Tensor, step: Tensor) -> Tensor:
    """(B, L) int64: how many other steps >= 0 of the same unit come before each step; of no use where step is -1."""
    width = step.amax().clamp(min=0) + 2
    key, order = (unit * width + step.clamp(min=-1) + 1).sort(dim=1, stable=True)
    starts = torch.ones_like(key[:, :1], dtype=torch.bool)
    owner = torch.div(key, width, rounding_mode="floor")
    new_unit = torch.cat((starts, owner[:, 1:] != owner[:, :-1]), dim=1)
    counts = (torch.cat((starts, key[:, 1:] != key[:, :-1]), dim=1) & (key % width > 0)).cumsum(dim=1)
    before = torch.where(new_unit, counts - (key % width > 0).long(), 0).cummax(dim=1).values
    return torch.zeros_like(step).scatter_(1, order, counts - before - 1)


def _num_states(state: Tensor) -> Tensor:
    """(B,) int64, at least 1."""
    return (state.amax(dim=1) + 1).clamp(min=1)


def _drawn(numbers: Tensor, num_states: Tensor) -> Tensor:
    """The states of each row in a random order: (B, L) int64, the first ``num_states`` of them real ones."""
    column = torch.arange(numbers.shape[1], device=numbers.device)
    return numbers.masked_fill(column >= num_states, 2.0).argsort(dim=1, stable=True)
