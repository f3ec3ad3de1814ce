"""Dream's alg_temp: positions drawn from softmax(confidence / temperature) by Gumbel top-k."""

import attrs

from dlm_builtin_plugins.remasking.ranking import best, gumbel_noise
from dlm_plugins import Decision, DecodingState


@attrs.frozen(kw_only=True)
class ConfidenceTemperature:
    """Draw positions without replacement from softmax(confidence / temperature) (Dream's ``alg_temp``).

    Ye et al. 2025, "Dream 7B", arXiv:2508.15487. Where ``random_topk`` works on the log-confidence, this works on the
    confidence itself: between sure predictions it is nearly uniform. 0 is ``low_confidence``. Exact at a quota of one
    token a step; approximate above.
    """

    temperature: float = attrs.field(
        default=0.2,
        validator=attrs.validators.ge(0),
        metadata={"help": "At least 0; small values follow the confidence, large ones are random."},
    )

    def decide(self, state: DecodingState) -> Decision:
        """The quota's worth of masked positions, drawn by the Gumbel-top-k method."""
        score = state.confidence + self.temperature * gumbel_noise(state.draws, "order")
        return Decision(commit=best(score, state.masked, state.quota))
