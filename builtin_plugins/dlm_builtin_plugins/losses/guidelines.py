"""LLaDA's loss: cross-entropy at corrupted positions times min(1/p, reweight cap), over all tokens or answers."""

import attrs

from dlm_builtin_plugins.losses.averaging import average
from dlm_plugins import LossOutput, LossView


@attrs.frozen(kw_only=True)
class GuidelinesLoss:
    """Cross-entropy at corrupted positions times 1/p, averaged over all tokens or answers (LLaDA guidelines).

    Nie et al. 2025, "Large Language Diffusion Models", arXiv:2502.09992. With the uniform schedule it bounds the
    negative log-likelihood from above.
    """

    def __call__(self, view: LossView) -> LossOutput:
        """Score the corrupted positions with weight min(1/p, cap)."""
        weight, normaliser = average(view, view.weight)
        return LossOutput(view.weighted_cross_entropy(view.corrupted, weight), normaliser)
