"""Random order: which predictions are kept has nothing to do with their confidence (LLaDA, MDLM)."""

from typing import ClassVar

import attrs

from dlm_builtin_plugins.remasking.ranking import best
from dlm_plugins import Decision, DecodingState


@attrs.frozen(kw_only=True)
class RandomOrder:
    """Keep predictions at random positions, whatever the model thinks of them (LLaDA, MDLM).

    The reverse process of Sahoo et al. 2024, arXiv:2406.07524, with counts instead of coins. Exact at a quota of one
    token a step: with temperature 1 a sample then follows the model's own distribution over random orders. Approximate
    above.
    """

    follows_predictions: ClassVar[bool] = False

    def decide(self, state: DecodingState) -> Decision:
        """The quota's worth of masked positions, uniformly."""
        return Decision(commit=best(state.draws.per_position("order"), state.masked, state.quota))
