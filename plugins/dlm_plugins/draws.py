"""Keyed randomness: random numbers of a row depend on seed, step, row, purpose alone (Philox4x32-10, counter-based).

Philox (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") is written in int64 tensor operations, so
that every device computes the same numbers and a number costs the same wherever it stands in the stream: nothing has to
be drawn in order, skipped or stored.
"""

from functools import lru_cache
from hashlib import blake2b
from typing import Protocol

import attrs
import torch
from torch import Tensor

_WORD = 0xFFFFFFFF
_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


class Draws(Protocol):
    """Uniform random numbers in [0, 1), float32, for B rows of L positions.

    A number depends on the run's seed, the step, the index of the row in the global step batch, the position and the
    purpose: not on batch size, padding, rank, accumulation or interruption. Asking twice gives the same numbers, so a
    component names each use of randomness differently ("coin", "start", ...).
    """

    def per_row(self, purpose: str) -> Tensor:
        """(B,) float32 in [0, 1): one number a row. ``purpose`` names the use."""
        ...

    def per_position(self, purpose: str) -> Tensor:
        """(B, L) float32 in [0, 1): one number a position. ``purpose`` names the use."""
        ...


@attrs.frozen(kw_only=True, eq=False)
class KeyedDraws:
    """Draws from Philox keyed by (seed, purpose), counted by (position, row, step)."""

    seed: int
    """The run's seed."""
    step: int
    """The global step."""
    rows: Tensor
    """(B,) int64: index of each row in the global step batch; rows with equal indices get equal numbers."""
    length: int
    """Number L of positions."""
    scope: str = ""
    """Kept apart from the same purpose elsewhere: the name of the component the draws are handed to."""

    def per_row(self, purpose: str) -> Tensor:
        """(B,) float32 in [0, 1)."""
        return self._uniform(f"{purpose}/row", 1)[:, 0]

    def per_position(self, purpose: str) -> Tensor:
        """(B, L) float32 in [0, 1)."""
        return self._uniform(f"{purpose}/position", self.length)

    def _uniform(self, purpose: str, length: int) -> Tensor:
        device = self.rows.device
        quads = torch.arange((length + 3) // 4, device=device)
        step = torch.full((), self.step & _WORD, device=device)  # a copy of it would be waited for
        counter = quads[None, :], self.rows[:, None], step, torch.zeros_like(step)
        words = philox(counter, _key(self.seed, f"{self.scope}:{purpose}"))
        # 24 bits fill the significand of a float32: exact multiples of 2^-24, never 1.
        return (words.flatten(1)[:, :length] >> 8).to(torch.float32) * 2.0**-24


@lru_cache(maxsize=4096)
def _key(seed: int, purpose: str) -> tuple[int, int]:
    digest = blake2b(f"{seed}:{purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int] | tuple[Tensor, Tensor]) -> Tensor:
    """Random words for 128-bit counters under a 64-bit key.

    Args:
        counter: four int64 tensors that broadcast to one shape (...), values in [0, 2^32).
        key: two integers in [0, 2^32), or two int64 tensors of such that broadcast to (...) too.

    Returns:
        (..., 4) int64 with values in [0, 2^32).
    """
    shape = torch.broadcast_shapes(*(word.shape for word in counter))
    c0, c1, c2, c3 = (word.expand(shape) for word in counter)
    k0: int | Tensor
    k1: int | Tensor
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
