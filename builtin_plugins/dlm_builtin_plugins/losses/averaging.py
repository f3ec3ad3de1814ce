"""What the normaliser of a loss counts: tokens in pre-training; answers, each divided by its length, in SFT."""

from torch import Tensor

from dlm_plugins import LossView


def average(view: LossView, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Share ``weight`` (B, L) out so that the sum divided by the returned count is the average wanted.

    Pre-training: the weight as it is, and the number of eligible tokens. Fine-tuning: the weight over the length of the
    answer, and the number of answers, so that a long answer counts no more than a short one (the guidelines of LLaDA,
    Nie et al. 2025, arXiv:2502.09992).
    """
    if view.answer_length is None:
        return weight, view.eligible.sum()
    share = view.eligible / view.answer_length.clamp(min=1)  # (B, L); the shares of one answer add up to 1
    return weight * share, share.sum()
