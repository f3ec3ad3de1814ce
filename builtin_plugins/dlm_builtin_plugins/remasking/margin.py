"""Top-k margin: keep the predictions whose first choice is furthest ahead of the second (top-1 minus top-2)."""

import attrs

from dlm_builtin_plugins.remasking.ranking import best
from dlm_plugins import Decision, DecodingState


@attrs.frozen(kw_only=True)
class LargeMargin:
    """Keep the predictions whose first choice is furthest ahead of the second (top-k probability margin).

    Kim et al. 2025, "Train for the Worst, Plan for the Best", arXiv:2502.06768. Exact at a quota of one token a step;
    approximate above.
    """

    def decide(self, state: DecodingState) -> Decision:
        """The quota's worth of masked positions with the largest margin."""
        return Decision(commit=best(state.margin, state.masked, state.quota))
