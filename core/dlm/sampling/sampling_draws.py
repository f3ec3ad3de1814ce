"""Random draws of sampling (Gumbel noise), keyed by (seed, row, block, step, position), whatever the batch."""

from functools import lru_cache
from hashlib import blake2b
from typing import TypeAlias

import attrs
import torch
from torch import Tensor

from dlm.data.batch import sent
from dlm_plugins.draws import philox

_WORD = 0xFFFFFFFF
_CHUNK_ELEMENTS = 1 << 18
"""Numbers drawn at once: few enough to stay in the cache of a core."""
# Constants of SplitMix64 as signed words.
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_FIRST_MULTIPLIER = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND_MULTIPLIER = 0x94D049BB133111EB - (1 << 64)


@attrs.frozen(kw_only=True, eq=False)
class RowSeeds:
    """Seeds of a batch whose rows do not all have the same."""

    seeds: tuple[int, ...]
    """Of the B rows."""
    at: Tensor
    """(N,) int64: the row of each of N draws."""

    def of(self, part: slice) -> "RowSeeds":
        """Of some of the draws."""
        return attrs.evolve(self, at=self.at[part])


Seed: TypeAlias = int | RowSeeds
Words: TypeAlias = tuple[int, int] | tuple[Tensor, Tensor]


@attrs.frozen(kw_only=True, eq=False)
class BlockDraws:
    """What a remasker draws from: R blocks of K positions at one step. An implementation of ``Draws``."""

    seed: Seed
    step: int
    """Step within the block, from 0."""
    rows: Tensor
    """(R,) int64: key of the row each block belongs to."""
    blocks: Tensor
    """(R,) int64: number of the block within its row."""
    length: int

    def per_row(self, purpose: str) -> Tensor:
        """(R,) float32 in [0, 1): one number a block."""
        return self._uniform(f"{purpose}/row", 1)[:, 0]

    def per_position(self, purpose: str) -> Tensor:
        """(R, K) float32 in [0, 1)."""
        return self._uniform(f"{purpose}/position", self.length)

    def _uniform(self, purpose: str, length: int) -> Tensor:
        quads = torch.arange((length + 3) // 4, device=self.rows.device)
        step = torch.full((), self.step & _WORD, device=self.rows.device)
        counter = (quads[None, :], self.rows[:, None], step, self.blocks[:, None])
        words = philox(counter, _words(self.seed, purpose, (-1, 1)))
        # 24 bits fill the significand of a float32: exact multiples of 2^-24, never 1.
        return (words.flatten(1)[:, :length] >> 8).to(torch.float32) * 2.0**-24


def add_gumbel_(
    logits: Tensor, temperature: float, *, seed: Seed, step: int, rows: Tensor, blocks: Tensor, positions: Tensor
) -> Tensor:
    """Gumbel noise, scaled by ``temperature``, added in place: the argmax is a draw from softmax(logits / temperature).

    Args:
        logits: (N, V) in the dtype the noise is wanted in. In less than float64 the tail of the noise is cut, which
            sharpens the distribution: Zheng et al. 2024, "Masked diffusion models are secretly time-agnostic".
        temperature: greater than 0.
        rows, blocks, positions: (N,) int64: keys of each distribution.

    Returns:
        ``logits``.
    """
    num_ids = logits.shape[1]
    zero = torch.zeros((), dtype=torch.long, device=logits.device)
    words = philox((positions, rows, blocks, zero), _words(seed, f"gumbel/{step}", (-1,)))
    start = words[:, 0] | (words[:, 1] << 32)  # (N,) one stream a distribution
    offset = torch.arange(1, num_ids + 1, device=logits.device) * _GOLDEN  # (V,)
    # As many bits as leave room for a half: no number is 0 or 1, and neither logarithm infinite.
    num_bits = 52 if logits.dtype == torch.float64 else 23
    size = max(1, _CHUNK_ELEMENTS // num_ids)
    for part in (slice(first, first + size) for first in range(0, len(logits), size)):
        bits = _mixed_(start[part, None] + offset) >> (64 - num_bits)
        uniform = bits.bitwise_and_((1 << num_bits) - 1).to(logits.dtype).add_(0.5).mul_(2.0**-num_bits)
        logits[part].sub_(uniform.log_().neg_().log_(), alpha=temperature)
    return logits


def _mixed_(counter: Tensor) -> Tensor:
    """The output function of SplitMix64 (Steele, Lea and Flood 2014), in place on int64 that wraps around.

    A number costs a third of Philox's, and here there is one for each id of the vocabulary. The shifts are logical: the
    mask cuts off the copies of the sign bit.
    """
    counter ^= (counter >> 30).bitwise_and_((1 << 34) - 1)
    counter *= _FIRST_MULTIPLIER
    counter ^= (counter >> 27).bitwise_and_((1 << 37) - 1)
    counter *= _SECOND_MULTIPLIER
    counter ^= (counter >> 31).bitwise_and_((1 << 33) - 1)
    return counter


def _words(seed: Seed, purpose: str, shape: tuple[int, ...]) -> Words:
    """The key of a purpose: of all draws, or of each, in this shape."""
    if isinstance(seed, int):
        return key_of(seed, purpose)
    keys = sent(torch.tensor([key_of(each, purpose) for each in seed.seeds]), seed.at.device)[seed.at]
    first, second = keys.unbind(dim=1)
    return first.view(shape), second.view(shape)


@lru_cache(maxsize=4096)
def key_of(seed: int, purpose: str) -> tuple[int, int]:
    """The 64-bit Philox key of a purpose, as two words."""
    digest = blake2b(f"sampling:{seed}:{purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")
