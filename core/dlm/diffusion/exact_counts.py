"""Evaluation's noise (eval loss): k of L tokens hidden, k uniform over 1..L whatever the schedule, with weight L / k.

The mean over k of L / k times the cross-entropy of k hidden tokens, summed, is the any-order bound: what coins at rate
t with weight 1/t give on average over t, and with fewer draws for the same error, as the number of coins that fall does
not vary. ``dlm eval`` draws its masks by the same rule.
"""

import attrs
import torch
from torch import Tensor

from dlm.diffusion.times import TimeUnit
from dlm_plugins import MaskingRequest, Selection


@attrs.frozen
class EveryRate:
    """The schedule p = t."""

    def mask_rate(self, t: Tensor) -> Tensor:
        """p."""
        return t

    def mask_rate_derivative(self, t: Tensor) -> Tensor:
        """dp/dt."""
        return torch.ones_like(t)


@attrs.frozen
class ExactCounts:
    """A masking that hides exactly k tokens of each unit, the positions of a row that share one t."""

    unit: TimeUnit

    def rates(self, t: Tensor, eligible: Tensor, block: Tensor, document_id: Tensor) -> Tensor:
        """k / L with k = 1 + floor(t L), for each position of a unit with L eligible tokens: (B, L) float32."""
        size = _sizes(self.unit.units_of(block, document_id), eligible)
        return (1 + (t.double() * size).floor()).minimum(size).div(size.clamp(min=1)).float()

    def select(self, request: MaskingRequest) -> Selection:
        """Hide the k tokens with the smallest numbers, where ``p`` is k / L of :meth:`rates`."""
        unit = self.unit.units_of(request.block, request.document_id)
        count = (request.p.double() * _sizes(unit, request.eligible)).round()
        rank = _ranks(request.draws.per_position("count"), unit, request.eligible)
        corrupted = request.eligible & (rank < count)
        return Selection(corrupted=corrupted, p_mask=request.p.masked_fill(~request.eligible, 0.0))


def _sizes(unit: Tensor, eligible: Tensor) -> Tensor:
    """Eligible tokens of each position's unit: (B, L) float64."""
    counts = torch.zeros(unit.shape, dtype=torch.float64, device=unit.device)
    return counts.scatter_add_(1, unit, eligible.double()).gather(1, unit)


def _ranks(numbers: Tensor, unit: Tensor, eligible: Tensor) -> Tensor:
    """Place of each eligible token among those of its unit by its number, from 0: (B, L) int64; anything elsewhere."""
    own = torch.where(eligible, unit, unit.shape[1])  # the rest stands behind all units
    by_number = numbers.argsort(dim=1, stable=True)
    order = by_number.gather(1, own.gather(1, by_number).argsort(dim=1, stable=True))
    place = torch.arange(unit.shape[1], device=unit.device).expand_as(unit)
    sorted_unit = own.gather(1, order)
    first = torch.searchsorted(sorted_unit, sorted_unit)
    return torch.empty_like(order).scatter_(1, order, place - first)
