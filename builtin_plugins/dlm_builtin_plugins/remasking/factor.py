"""Fast-dLLM's factor: keep the n most confident predictions while (n + 1)(1 - confidence) < factor."""

from typing import ClassVar

import attrs

from dlm_builtin_plugins.remasking.ranking import best, rank_of
from dlm_plugins import Decision, DecodingState


@attrs.frozen(kw_only=True)
class Factor:
    """Keep the n best predictions for the largest n with (n + 1)(1 - confidence of the n-th) < factor (Fast-dLLM).

    Wu et al. 2025, "Fast-dLLM", arXiv:2505.22618, who show for factor 1 that the most probable tokens are then also
    jointly the most probable ones, if the predictions are the marginals of one distribution. A network's need not be:
    approximate, but exact where the factor is so small that each step commits one token.
    """

    respects_quota: ClassVar[bool] = False

    factor: float = attrs.field(
        default=1.0,
        validator=attrs.validators.gt(0),
        metadata={"help": "Greater than 0; smaller is more careful."},
    )

    def decide(self, state: DecodingState) -> Decision:
        """A prefix of the masked positions by falling confidence, and at least the first."""
        num_kept = rank_of(state.confidence, state.masked) + 1  # (B, K) n, if this position were the last kept
        # The left side rises with n: the positions that pass are a prefix.
        is_safe = (num_kept + 1) * (1 - state.confidence) < self.factor
        return Decision(commit=(state.masked & is_safe) | best(state.confidence, state.masked, 1))
