"""Hidden states at chosen positions (``logits_to_keep``), so that the head runs only where logits are wanted."""

import torch
from torch import Tensor


def at_positions(hidden: Tensor, logits_to_keep: int | Tensor) -> Tensor:
    """Choose positions of ``hidden`` (B, L, H), with the meanings that ``logits_to_keep`` has in transformers.

    Args:
        hidden: (B, L, H) of any dtype.
        logits_to_keep: An int n: the last n positions, 0 all of them. (P,) int64: the same positions in each row.
            (B, P) int64: positions of each row. (B, L) bool: the True ones.

    Returns:
        (B, n, H), (B, P, H), or (N, H) for a boolean selection with N positions, row by row.
    """
    if isinstance(logits_to_keep, int):
        return hidden[:, -logits_to_keep:] if logits_to_keep else hidden
    if logits_to_keep.ndim == 2 and logits_to_keep.dtype == torch.bool:
        return hidden[logits_to_keep]
    if logits_to_keep.ndim == 2:
        return torch.take_along_dim(hidden, logits_to_keep[..., None], dim=1)
    return hidden[:, logits_to_keep]
