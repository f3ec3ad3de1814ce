"""Randomness of sampling, keyed by (seed, row, block, step, position): the batch a row is in does not matter."""

from functools import lru_cache
from hashlib import blake2b

import attrs
import torch
from torch import Tensor

from dlm_plugins.philox import philox

_WORD = 0xFFFFFFFF
_CHUNK_ELEMENTS = 1 << 20


@attrs.frozen(kw_only=True, eq=False)
class BlockDraws:
    """What a remasker draws from: R blocks of K positions at one step. An implementation of ``Draws``."""

    seed: int
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
        words = philox((quads[None, :], self.rows[:, None], step, self.blocks[:, None]), key_of(self.seed, purpose))
        # 24 bits fill the significand of a float32: exact multiples of 2^-24, never 1.
        return (words.flatten(1)[:, :length] >> 8).to(torch.float32) * 2.0**-24


def add_gumbel_(
    logits: Tensor, temperature: float, *, seed: int, step: int, rows: Tensor, blocks: Tensor, positions: Tensor
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
    quads = torch.arange((num_ids + 3) // 4, device=logits.device)
    key = key_of(seed, f"gumbel/{step}")
    size = max(1, _CHUNK_ELEMENTS // num_ids)
    for part in (slice(start, start + size) for start in range(0, len(logits), size)):
        counter = (quads[None, :], positions[part, None], rows[part, None], blocks[part, None])
        words = philox(counter, key).flatten(1)[:, :num_ids]
        # The middle of each of the 2^32 cells of (0, 1): neither logarithm can be infinite.
        uniform = words.to(logits.dtype).add_(0.5).mul_(2.0**-32)
        logits[part].sub_(uniform.log_().neg_().log_(), alpha=temperature)
    return logits


@lru_cache(maxsize=4096)
def key_of(seed: int, purpose: str) -> tuple[int, int]:
    """The 64-bit Philox key of a purpose, as two words."""
    digest = blake2b(f"sampling:{seed}:{purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")
