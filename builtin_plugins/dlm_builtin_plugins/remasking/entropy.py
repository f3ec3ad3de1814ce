"""Dream's entropy order: keep the predictions whose entropy over the vocabulary is lowest."""

import attrs

from dlm_builtin_plugins.remasking.ranking import best
from dlm_plugins import Decision, DecodingState


@attrs.frozen(kw_only=True)
class LowEntropy:
    """Keep the predictions with the lowest entropy over the vocabulary (Dream).

    Ye et al. 2025, "Dream 7B", arXiv:2508.15487. Exact at a quota of one token a step; approximate above.
    """

    def decide(self, state: DecodingState) -> Decision:
        """The quota's worth of masked positions with the lowest entropy."""
        return Decision(commit=best(-state.entropy, state.masked, state.quota))
