"""Sums over whole answers (GSPO, DPO): the row of each scored position, and rows that belong together."""

import torch
from torch import Tensor
from torch.nn.functional import pad


def rows_of(where: Tensor) -> Tensor:
    """(N,) int64: the row of each of the N positions in ``where`` (B, L) bool."""
    return torch.arange(len(where), device=where.device)[:, None].expand_as(where)[where]


def runs_of(numbers: Tensor) -> Tensor:
    """(B,) int64: place, from 0, of the run of equal neighbours that each of ``numbers`` (B,) belongs to."""
    return pad((numbers[1:] != numbers[:-1]).long().cumsum(dim=0), (1, 0))
