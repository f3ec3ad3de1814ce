"""Threshold decoding (Fast-dLLM, SDAR's dynamic rule): every prediction whose confidence exceeds a bar, in parallel."""

from typing import ClassVar, Literal

import attrs

from dlm_builtin_plugins.remasking.ranking import best
from dlm_plugins import Decision, DecodingState


@attrs.frozen(kw_only=True)
class Threshold:
    """Keep every prediction above a confidence, and at least the best one (Fast-dLLM).

    Wu et al. 2025, "Fast-dLLM", arXiv:2505.22618. Sure text takes few steps. Where little is sure, ``fallback`` says
    how many of the best are kept all the same: ``one``, or the quota of the step as in ``low_confidence_dynamic`` of
    SDAR (Cheng et al. 2025, arXiv:2510.06303), which so ends within the steps planned. Exact at threshold 1 and
    fallback ``one``, where each step commits one token, given as many steps as tokens; approximate otherwise.
    """

    respects_quota: ClassVar[bool] = False

    threshold: float = attrs.field(
        default=0.9,
        validator=[attrs.validators.ge(0), attrs.validators.le(1)],
        metadata={"help": "Confidence a prediction has to exceed, in [0, 1]."},
    )
    fallback: Literal["one", "quota"] = attrs.field(
        default="one",
        validator=attrs.validators.in_(("one", "quota")),
        metadata={"help": "How many are kept at least: one, or the quota of the step (SDAR)."},
    )

    def decide(self, state: DecodingState) -> Decision:
        """All masked positions above the threshold, and the most confident ones up to the fallback."""
        is_sure = state.masked & (state.confidence > self.threshold)
        least = state.quota.clamp(min=1) if self.fallback == "quota" else 1
        return Decision(commit=is_sure | best(state.confidence, state.masked, least))
