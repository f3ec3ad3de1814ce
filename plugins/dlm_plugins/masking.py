"""Contract of a masking: which positions are corrupted and scored, given the mask rate; with which probability."""

from typing import Protocol, runtime_checkable

import attrs
import torch
from torch import Tensor

from dlm_plugins.claims import Claim
from dlm_plugins.draws import Draws

NUM_VIEWS = Claim(
    "num_views",
    1,
    "How many corrupted views of each row are trained together. The core repeats the rows; views share their draws. A "
    "method views_of(request) -> (B,) stands over it where the number depends on the row.",
)
IS_INDEPENDENT = Claim(
    "is_independent",
    False,
    "Positions are corrupted independently of each other with probability exactly p, as the likelihood bound assumes.",
)
FOLLOWS_RATE = Claim(
    "follows_rate",
    True,
    "A higher mask rate p corrupts more. False where p decides nothing.",
)
NEEDS_TRACE = Claim(
    "needs_trace",
    False,
    "Cannot do without committed_step: rows come from a rollout, or from a data set with a column step_map.",
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
    """(B,) int64: which view of its row this is, counted from 0."""
    draws: Draws
    """The only source of randomness, already keyed by row. Views of one row see the same numbers."""
    block: Tensor = attrs.field(default=attrs.Factory(lambda self: _blocks(self), takes_self=True))
    """(B, L) int64: attention block of each position, from 0, as the sampler counts them; -1 in a prompt. By default
    counted over the eligible positions of each document."""
    committed_step: Tensor | None = None
    """(B, L) int64: the denoising step at which each position was written, by a rollout or as a data set's column
    ``step_map`` says; -1 where it was given or never written. None where nobody knows."""
    context: Tensor | None = None
    """(B, L) bool: given positions, not eligible, that may be hidden but are never scored; None: there are none."""
    blocks_are_separate: bool = False
    """Whether no noisy block sees another noisy one (block diffusion, or blocks that see the prompt only), so that one
    view can have every block at a state of its own."""


@attrs.frozen(kw_only=True, eq=False)
class Selection:
    """Which positions were corrupted, and how likely that was."""

    corrupted: Tensor
    """(B, L) bool, False wherever the position was neither eligible nor context."""
    p_mask: Tensor
    """(B, L) float32: the probability with which each position is scored, given the row's own p (and whatever coin the
    masking tossed for the row first); 0 where the position was not eligible. Averaged over the views of a row,
    E[scored / p_mask] = 1."""
    scored: Tensor | None = None
    """(B, L) bool: the corrupted positions a loss may score, all of them eligible; None: all that are corrupted."""


@runtime_checkable
class Masking(Protocol):
    """Chooses the corrupted positions of a batch."""

    def select(self, request: MaskingRequest) -> Selection:
        """Choose the positions. A row's result depends on that row alone: not on the batch, nor on padding."""
        ...


@runtime_checkable
class ManyViewed(Masking, Protocol):
    """A masking whose number of views depends on the row."""

    def views_of(self, request: MaskingRequest) -> Tensor:
        """(B,) int64, at least 1: how many views each row gets. ``view_index`` is 0 everywhere in the request."""
        ...


def has_many_views(masking: Masking) -> bool:
    """Whether a row may get more than one view."""
    return isinstance(masking, ManyViewed) or NUM_VIEWS.of(masking) > 1


def views_of(masking: Masking, request: MaskingRequest) -> Tensor:
    """(B,) int64, at least 1: how many views ``masking`` wants of each row of ``request``."""
    if isinstance(masking, ManyViewed):
        return masking.views_of(request)
    return torch.full_like(request.view_index, NUM_VIEWS.of(masking))


def _blocks(request: MaskingRequest) -> Tensor:
    """Blocks over the eligible positions of each document: (B, L) int64, -1 elsewhere."""
    eligible, document = request.eligible, request.document_id
    before = eligible.cumsum(dim=1) - 1  # (B, L) eligible positions of the row up to here
    others = torch.zeros_like(before).scatter_add_(1, document.clamp(min=0), eligible.long()).cumsum(dim=1)
    first = torch.nn.functional.pad(others, (1, 0))[:, :-1].gather(1, document.clamp(min=0))
    return torch.where(eligible, (before - first) // request.block_length, -1)
