"""LLaDA's low_confidence: keep the most confident predictions of a step, remask the least confident."""

import attrs

from dlm_builtin_plugins.remasking.ranking import best
from dlm_plugins import Decision, DecodingState


@attrs.frozen(kw_only=True)
class LowConfidence:
    """Keep the most probable predictions of a step, put the least confident back (LLaDA, MaskGIT).

    Nie et al. 2025, arXiv:2502.09992. Exact at a quota of one token a step; approximate above.
    """

    def decide(self, state: DecodingState) -> Decision:
        """The quota's worth of masked positions with the highest confidence."""
        return Decision(commit=best(state.confidence, state.masked, state.quota))
