"""LLaDA's loss: cross-entropy at corrupted positions times min(1/p, reweight cap), normaliser all tokens or answers."""

import attrs
from torch import Tensor

from dlm_plugins import LossOutput, LossView


@attrs.frozen(kw_only=True)
class GuidelinesLoss:
    """Cross-entropy at corrupted positions times 1/p, averaged over all tokens or answers (LLaDA guidelines).

    Nie et al. 2025, "Large Language Diffusion Models", arXiv:2502.09992. With the uniform schedule it bounds the
    negative log-likelihood from above.
    """

    def __call__(self, view: LossView) -> LossOutput:
        """Score what counts, usually the corrupted positions, with weight min(1/p, cap)."""
        weight, normaliser = average(view, view.weight)
        return LossOutput(view.weighted_cross_entropy(view.scored, weight), normaliser)


def average(view: LossView, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Share ``weight`` (B, L) out so that the sum divided by the returned count is the average wanted.

    Pre-training: the weight as it is, and the number of eligible tokens. Fine-tuning: the weight over the length of the
    answer, and the number of answers, so that a long answer counts no more than a short one (the guidelines of LLaDA,
    Nie et al. 2025, arXiv:2502.09992). The views of a row share what one of them would count.
    """
    share = view.eligible / view.num_views  # (B, L)
    if view.answer_length is None:
        return weight / view.num_views, share.sum()
    share = share / view.answer_length.clamp(min=1)  # the shares of one answer add up to 1
    return weight * share, share.sum()
