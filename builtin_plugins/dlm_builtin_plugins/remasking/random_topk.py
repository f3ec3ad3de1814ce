"""MaskGIT's order: Gumbel noise times a temperature on the log-confidence, then the top k are kept."""

import attrs

from dlm_builtin_plugins.remasking.ranking import best, gumbel_noise
from dlm_plugins import Decision, DecodingState


@attrs.frozen(kw_only=True)
class RandomTopK:
    """Low confidence with randomness: Gumbel noise on the log-confidence before the best are kept (MaskGIT).

    Chang et al. 2022, arXiv:2202.04200. At temperature 1 positions are drawn without replacement with probabilities
    proportional to their confidence; at 0 it is ``low_confidence``. The temperature is the same at all steps. Exact at
    a quota of one token a step; approximate above.
    """

    temperature: float = attrs.field(
        default=1.0,
        validator=attrs.validators.ge(0),
        metadata={"help": "Scale of the noise on the log-confidence, at least 0."},
    )

    def decide(self, state: DecodingState) -> Decision:
        """The quota's worth of masked positions with the highest noisy log-confidence."""
        score = state.log_probability + self.temperature * gumbel_noise(state.draws, "order")
        return Decision(commit=best(score, state.masked, state.quota))
