"""Philox4x32-10, the counter-based generator of Salmon et al. 2011 ("Parallel random numbers: as easy as 1, 2, 3").

Written in int64 tensor operations, so that every device computes the same numbers and a number costs the same wherever
it stands in the stream: nothing has to be drawn in order, skipped or stored.
"""

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF
_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> Tensor:
    """Random words for 128-bit counters under a 64-bit key.

    Args:
        counter: four int64 tensors that broadcast to one shape (...), values in [0, 2^32).
        key: two integers in [0, 2^32).

    Returns:
        (..., 4) int64 with values in [0, 2^32).
    """
    shape = torch.broadcast_shapes(*(word.shape for word in counter))
    c0, c1, c2, c3 = (word.expand(shape) for word in counter)
    k0, k1 = key
    for _ in range(_ROUNDS):
        # A product of two 32-bit words wraps around in int64, but its 64 bits are right: the shift is arithmetic, so
        # the mask cuts the copies of the sign bit off.
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((product1 >> 32) & _WORD) ^ c1 ^ k0,
            product1 & _WORD,
            ((product0 >> 32) & _WORD) ^ c3 ^ k1,
            product0 & _WORD,
        )
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return torch.stack((c0, c1, c2, c3), dim=-1)
