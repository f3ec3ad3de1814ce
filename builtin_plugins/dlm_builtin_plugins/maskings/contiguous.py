"""Span masking: one contiguous run of k positions is corrupted, k from p = k / (n + k - 1)."""

import attrs
import torch
from torch import Tensor

from dlm_plugins import MaskingRequest, Selection

_UNIT = 1 << 24
"""Steps of a rate of 1: what a float32 draw resolves."""


@attrs.frozen(kw_only=True)
class ContiguousMasking:
    """One run of neighbouring positions is corrupted; each position is hit with the same probability.

    The span has k positions and starts anywhere in {-(k-1), ..., n-1} of the row's n eligible positions, counted one
    after the other; what sticks out is cut off. So every position is hit by exactly k of the n+k-1 starts. (Starts
    inside the row only would reach its first position by a single one: a weight in the hundreds.) k is the whole number
    nearest to the solution of p = k / (n+k-1), at least 1 unless p is 0, and ``p_mask`` is the probability that this k
    has. Where p varies along a row, its mean over the eligible positions is used. Span corruption as such is the idea
    of SpanBERT (Joshi et al. 2020, arXiv:1907.10529) and T5; the law of the start is our own.
    """

    def select(self, request: MaskingRequest) -> Selection:
        """Draw one start a row."""
        eligible = request.eligible
        num_eligible = eligible.sum(dim=1)  # (B,)
        span_length, is_full = _span_length(request.p, eligible, num_eligible)
        num_starts = num_eligible + span_length - 1
        start = (request.draws.per_row("start") * num_starts).long().clamp(max=num_starts - 1) - (span_length - 1)
        offset = eligible.cumsum(dim=1) - 1 - start[:, None]  # (B, L) place in the span
        inside = (offset >= 0) & (offset < span_length[:, None])
        # Only an endless span covers everything for certain.
        corrupted = eligible & (inside | is_full[:, None])
        probability = span_length / num_starts.clamp(min=1)  # (B,)
        return Selection(corrupted=corrupted, p_mask=torch.where(eligible, probability[:, None], 0.0))


def _span_length(p: Tensor, eligible: Tensor, num_eligible: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) k of each row, and whether its rate is exactly 1.

    In whole numbers: a sum of floats would depend on the padding.
    """
    rate = torch.where(eligible, (p * _UNIT).ceil(), 0.0).long().sum(dim=1)  # (B,) n p, in units
    gap = num_eligible * _UNIT - rate  # n (1 - p), in units
    is_full = gap == 0
    gap = gap.clamp(min=1)
    nearest = (2 * rate * (num_eligible - 1) + gap) // (2 * gap)  # of k = p (n-1) / (1-p)
    return torch.where(rate > 0, nearest.clamp(min=1), 0), is_full
