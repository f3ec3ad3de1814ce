"""Contract of a masking: which positions are corrupted, given the mask rate, and with which probability (p_mask)."""

from typing import Protocol, runtime_checkable

import attrs
from torch import Tensor

from dlm_plugins.claims import Claim
from dlm_plugins.draws import Draws

NUM_VIEWS = Claim(
    "num_views",
    1,
    "How many corrupted views of each row are trained together. The core repeats the rows; views share their draws.",
)
IS_INDEPENDENT = Claim(
    "is_independent",
    False,
    "Positions are corrupted independently of each other with probability exactly p, as the likelihood bound assumes.",
)


@attrs.frozen(kw_only=True, eq=False)
class MaskingRequest:
    """What a masking may look at. B rows, L positions."""

    eligible: Tensor
    """(B, L) bool: positions that may be corrupted. Nothing outside may ever be."""
    p: Tensor
    """(B, L) float32 in [0, 1]: mask rate at each position; constant along a row unless ``t_per`` says otherwise
    (``block`` or ``token``, see ``RunComponents``)."""
    spans: Tensor
    """(B, L) int64: number of the word each position belongs to, counted from 0 in each row; -1 on padding. No word
    reaches across documents. For maskings that corrupt words whole."""
    document_id: Tensor
    """(B, L) int64: number of the document each position belongs to, counted from 0 in each row; -1 on padding."""
    block_length: int
    """Length of the attention and sampling blocks of the run, at least 1."""
    view_index: Tensor
    """(B,) int64: which view of its row this is, from 0 to ``num_views - 1``."""
    draws: Draws
    """The only source of randomness, already keyed by row. Views of one row see the same numbers."""


@attrs.frozen(kw_only=True, eq=False)
class Selection:
    """Which positions were corrupted, and how likely that was."""

    corrupted: Tensor
    """(B, L) bool, False wherever the position was not eligible."""
    p_mask: Tensor
    """(B, L) float32: the probability with which each position was corrupted, given the row's own p (and whatever coin
    the masking tossed for the row first); 0 where the position was not eligible. E[corrupted / p_mask] = 1."""


@runtime_checkable
class Masking(Protocol):
    """Chooses the corrupted positions of a batch."""

    def select(self, request: MaskingRequest) -> Selection:
        """Choose the positions. A row's result depends on that row alone: not on the batch, nor on padding."""
        ...
