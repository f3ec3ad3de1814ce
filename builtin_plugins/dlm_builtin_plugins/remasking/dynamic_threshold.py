"""Parallel decoding above a confidence threshold that falls or rises over the steps of a block."""

from typing import ClassVar

import attrs

from dlm_builtin_plugins.remasking.ranking import best
from dlm_plugins import Decision, DecodingState


@attrs.frozen(kw_only=True)
class DynamicThreshold:
    """``threshold`` with a bar that falls or rises in a straight line over the steps of a block.

    A falling bar is careful while little is known and finishes within the steps planned. Extends Fast-dLLM (Wu et al.
    2025, arXiv:2505.22618). Exact only with both ends at 1 and as many steps as tokens; approximate otherwise.
    """

    respects_quota: ClassVar[bool] = False

    start: float = attrs.field(
        default=0.95,
        validator=[attrs.validators.ge(0), attrs.validators.le(1)],
        metadata={"help": "Confidence to exceed at the first step of a block, in [0, 1]."},
    )
    end: float = attrs.field(
        default=0.6,
        validator=[attrs.validators.ge(0), attrs.validators.le(1)],
        metadata={"help": "Confidence to exceed at the last step of a block, in [0, 1]."},
    )

    def decide(self, state: DecodingState) -> Decision:
        """All masked positions above this step's bar, and the most confident one."""
        progress = state.step / max(state.num_steps - 1, 1)
        bar = self.start + (self.end - self.start) * progress
        is_sure = state.masked & (state.confidence > bar)
        return Decision(commit=is_sure | best(state.confidence, state.masked, 1))
