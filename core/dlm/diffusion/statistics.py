"""Sums that losses and metrics are made of, in one vector: they add up over micro-batches and ranks."""

import torch
from torch import Tensor

from dlm.diffusion.view import BatchView

NUM_RATE_BINS = 10
"""Mask rates are counted in ten equal bins of [0, 1]."""

_SCALARS = 5
SIZE = _SCALARS + 3 * NUM_RATE_BINS


def statistics_of(view: BatchView, total: Tensor, normaliser: Tensor) -> Tensor:
    """The sums of one micro-batch: (SIZE,) float32.

    Total, normaliser, real tokens, eligible tokens, rows; then by bin of the mask rate the number of corrupted
    positions, the number of correct ones, and the sum of their unweighted cross-entropy.
    """
    view.score_corrupted()
    with torch.no_grad():
        real = view.document_id >= 0
        scalars = torch.stack(
            [
                total.detach().float(),
                normaliser.detach().float(),
                real.sum().float(),
                view.eligible.sum().float(),
                real.any(dim=1).sum().float(),
            ]
        )
        bins = (view.rate * NUM_RATE_BINS).long().clamp(max=NUM_RATE_BINS - 1).flatten()
        corrupted = view.corrupted.flatten().float()
        values = torch.stack((corrupted, corrupted * view.correct.flatten(), corrupted * view.cross_entropy.flatten()))
        by_bin = torch.zeros(3, NUM_RATE_BINS, device=real.device).index_add_(1, bins, values)
        return torch.cat((scalars, by_bin.flatten()))
