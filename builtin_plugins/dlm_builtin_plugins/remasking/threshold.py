"""Fast-dLLM's threshold: parallel decoding of every prediction whose confidence exceeds a bar."""

from typing import ClassVar

import attrs

from dlm_builtin_plugins.remasking.ranking import best
from dlm_plugins import Decision, DecodingState


@attrs.frozen(kw_only=True)
class Threshold:
    """Keep every prediction above a confidence, and at least the best one (Fast-dLLM).

    Wu et al. 2025, "Fast-dLLM", arXiv:2505.22618. The quota is ignored: sure text takes few steps. Exact at threshold
    1, where each step commits one token, given as many steps as tokens; approximate below.
    """

    respects_quota: ClassVar[bool] = False

    threshold: float = attrs.field(
        default=0.9,
        validator=[attrs.validators.ge(0), attrs.validators.le(1)],
        metadata={"help": "Confidence a prediction has to exceed, in [0, 1]."},
    )

    def decide(self, state: DecodingState) -> Decision:
        """All masked positions above the threshold, and the most confident one."""
        is_sure = state.masked & (state.confidence > self.threshold)
        return Decision(commit=is_sure | best(state.confidence, state.masked, 1))
