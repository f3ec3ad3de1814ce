"""Sums over whole answers (GSPO, DPO): the row of each scored position."""

import torch
from torch import Tensor


def rows_of(where: Tensor) -> Tensor:
    """(N,) int64: the row of each of the N positions in ``where`` (B, L) bool."""
    return torch.arange(len(where), device=where.device)[:, None].expand_as(where)[where]
