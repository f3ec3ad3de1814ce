"""Whole-word masking."""

import attrs
import torch
from torch import Tensor

from dlm_plugins import MaskingRequest, Selection


@attrs.frozen(kw_only=True)
class WholeWordMasking:
    """The tokens of a word are corrupted together, so that none can be guessed from the rest of its word.

    The second masking of BERT (Devlin et al. 2019, arXiv:1810.04805; "whole word masking" of its repository), with
    every token at probability p as diffusion needs it.
    """

    share: float = attrs.field(
        default=1.0,
        validator=[attrs.validators.ge(0), attrs.validators.le(1)],
        metadata={"help": "Share of rows that are masked word by word, in [0, 1]; the others are token by token."},
    )

    def select(self, request: MaskingRequest) -> Selection:
        """One coin a word: the one that its first eligible position would have tossed alone."""
        leader = _first_of_word(request)  # (B, L)
        by_word = request.draws.per_row("by_word")[:, None] < self.share
        leader = torch.where(by_word, leader, torch.arange(leader.shape[1], device=leader.device))
        p = request.p.gather(1, leader)  # rates may differ inside a word; the coin's is the one that counts
        corrupted = request.eligible & (request.draws.per_position("coin").gather(1, leader) < p)
        return Selection(corrupted=corrupted, p_mask=p.masked_fill(~request.eligible, 0.0))


def _first_of_word(request: MaskingRequest) -> Tensor:
    """(B, L) int64: the first eligible position of each position's word; the position itself outside of words."""
    num_rows, length = request.spans.shape
    position = torch.arange(length, device=request.spans.device).expand(num_rows, length)
    # Words are numbered from 0 and no row has more of them than positions; the last place takes what is no word.
    word = torch.where(request.eligible & (request.spans >= 0), request.spans, length)
    first = torch.full((num_rows, length + 1), length, device=position.device).scatter_reduce(1, word, position, "amin")
    return torch.where(word < length, first.gather(1, word), position)
