"""Keyed randomness: what a row gets depends on its own key alone."""

from functools import lru_cache
from hashlib import blake2b
from typing import Protocol

import attrs
import torch
from torch import Tensor

from dlm_plugins.philox import philox

_WORD = 0xFFFFFFFF


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
    """Draws from Philox keyed by (seed, purpose), counted by (position, row, step, block)."""

    seed: int
    """The run's seed."""
    step: int
    """The global step."""
    rows: Tensor
    """(B,) int64: index of each row in the global step batch; rows with equal indices get equal numbers."""
    length: int
    """Number L of positions."""
    block: int = 0
    """Number of the block, where each block draws for itself."""
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
        step, block = torch.tensor([self.step & _WORD, self.block & _WORD], device=device).unbind()
        words = philox((quads[None, :], self.rows[:, None], step, block), _key(self.seed, f"{self.scope}:{purpose}"))
        # 24 bits fill the significand of a float32: exact multiples of 2^-24, never 1.
        return (words.flatten(1)[:, :length] >> 8).to(torch.float32) * 2.0**-24


@lru_cache(maxsize=4096)
def _key(seed: int, purpose: str) -> tuple[int, int]:
    digest = blake2b(f"{seed}:{purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")
