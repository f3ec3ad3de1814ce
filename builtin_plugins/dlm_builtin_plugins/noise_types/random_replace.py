"""Uniform noise: a corrupted position holds a random other token, never the mask or a special token."""

import attrs
import torch
from torch import Tensor

from dlm_plugins import CorruptionRequest, Draws


@attrs.frozen(kw_only=True)
class RandomReplaceNoise:
    """A corrupted position holds another token, uniform over the vocabulary (uniform diffusion).

    Austin et al. 2021, arXiv:2107.03006. Never the original token, the mask or another special token.
    """

    def corrupt(self, request: CorruptionRequest) -> Tensor:
        """Write random tokens.

        Raises:
            ValueError: the vocabulary has fewer than two tokens to choose from.
        """
        allowed = _allowed(request)  # (V,)
        num_allowed = allowed.sum()
        rank = allowed.cumsum(dim=0) - 1  # (V,) place of each id among the allowed ones
        by_rank = torch.argsort(~allowed, stable=True)  # (V,) allowed ids first, in order

        original = request.input_ids.clamp(max=request.vocabulary_size - 1)
        has_rank = allowed[original] & (original == request.input_ids)  # (B, L)
        # Draw among the others and step over the original.
        drawn = _random_integers(request.draws) % (num_allowed - has_rank.long())
        drawn = drawn + (has_rank & (drawn >= rank[original])).long()
        return torch.where(request.corrupted, by_rank[drawn], request.input_ids)


def _allowed(request: CorruptionRequest) -> Tensor:
    """(V,) bool: the ids that may be written."""
    size = request.vocabulary_size
    allowed = torch.ones(size + 1, dtype=torch.bool, device=request.input_ids.device)
    allowed[request.special_ids.clamp(max=size)] = False  # the extra place takes ids beyond the vocabulary
    allowed[min(request.mask_id, size)] = False
    # The device is asked only when the count of special ids leaves a doubt: an answer would wait for it.
    certain = size - request.special_ids.numel() - 1
    if certain < 2 and (num_allowed := int(allowed[:size].sum())) < 2:
        raise ValueError(
            f"random_replace needs at least 2 tokens that are neither special nor the mask; this vocabulary of {size} "
            f"ids has {num_allowed}"
        )
    return allowed[:size]


def _random_integers(draws: Draws) -> Tensor:
    """(B, L) int64, uniform in [0, 2^48): so wide that a remainder by the vocabulary's size is uniform too."""
    high, low = ((draws.per_position(purpose) * 2**24).long() for purpose in ("token/high", "token/low"))
    return (high << 24) | low
