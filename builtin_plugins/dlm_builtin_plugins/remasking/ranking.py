"""Top k of each row by a score, ties to the earlier position, and Gumbel noise, for all remasking rules."""

import torch
from torch import Tensor

from dlm_plugins import Draws


def rank_of(score: Tensor, among: Tensor) -> Tensor:
    """(B, K) int64: place of each position by falling ``score``, from 0, counted over ``among`` only.

    Ties go to the earlier position. Positions outside ``among`` get no meaningful place.
    """
    order = torch.argsort(score, dim=1, descending=True, stable=True)
    place = among.gather(1, order).cumsum(dim=1) - 1
    return torch.empty_like(place).scatter_(1, order, place)


def best(score: Tensor, among: Tensor, count: Tensor | int) -> Tensor:
    """(B, K) bool: the ``count`` (B,) positions of ``among`` with the highest score, or all where there are fewer."""
    limit = count[:, None] if isinstance(count, Tensor) else count
    return among & (rank_of(score, among) < limit)


def gumbel_noise(draws: Draws, purpose: str) -> Tensor:
    """(B, K) float32 with the standard Gumbel law; finite."""
    uniform = draws.per_position(purpose).clamp(min=2.0**-25)
    return -torch.log(-torch.log(uniform))
