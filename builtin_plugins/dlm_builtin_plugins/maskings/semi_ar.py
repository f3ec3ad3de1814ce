"""Semi-autoregressive masking: blocks before the current one clean, later ones hidden (dLLM-RL; two mask rates)."""

from collections.abc import Iterable
from typing import Literal

import attrs
import torch
from torch import Tensor

from dlm_plugins import MaskingRequest, RunComponents, Selection
from dlm_plugins.attention_bias import blocks_are_separate

_HELP = "all: a view for each block of the row; one: one block, drawn for each document."


def _blocks_option() -> Literal["all", "one"]:
    option: Literal["all", "one"] = attrs.field(
        default="all", validator=attrs.validators.in_(("all", "one")), metadata={"help": _HELP}
    )
    return option


@attrs.frozen(kw_only=True)
class SemiAutoregressiveMasking:
    """What block-by-block sampling sees: earlier blocks clean, the current one partly hidden, later ones hidden.

    The semi-AR fine-tuning of dLLM-RL (Wang et al. 2025, arXiv:2509.06949). Only the current block is scored, at mask
    rate p; every token is scored in one view of ``blocks: all``, so that ``p_mask`` is p over the number of blocks.
    Where no noisy block sees another one (block diffusion), all blocks are current at once, in a single view. Blocks
    are as long as the run's ``block_length``.
    """

    blocks: Literal["all", "one"] = _blocks_option()

    def views_of(self, request: MaskingRequest) -> Tensor:
        """As many as the row has blocks, or one."""
        return _num_views(request, self.blocks)

    def select(self, request: MaskingRequest) -> Selection:
        """Hide part of the current block, and all that follows."""
        return _by_blocks(request, self.blocks, first=None, second=1.0)

    def incompatibilities(self, run: RunComponents) -> Iterable[str]:
        """A choice of blocks where all are current at once."""
        if self.blocks == "one" and blocks_are_separate(run.attention_bias):
            bias = run.names["attention_bias"]
            yield f"blocks: one has no effect under {bias}, where all blocks are trained in a single view; remove it"


@attrs.frozen(kw_only=True)
class TwoStageMasking:
    """Two mask rates in a row: one for the current block, another for the later ones; earlier blocks are clean.

    Masks "of two stages" have no published definition: this reading takes the stages of block-by-block sampling.
    ``semi_ar`` is ``second: 1``; lower values let the current block look ahead, as after a first pass over the whole
    answer. What of the later blocks is hidden is not scored.
    """

    first: float | None = attrs.field(
        default=None,
        validator=attrs.validators.optional([attrs.validators.gt(0), attrs.validators.le(1)]),
        metadata={"help": "Mask rate of the current block, in (0, 1]; null: the schedule's p."},
    )
    second: float = attrs.field(
        default=0.9,
        validator=[attrs.validators.ge(0), attrs.validators.le(1)],
        metadata={"help": "Mask rate of the later blocks, in [0, 1]."},
    )
    blocks: Literal["all", "one"] = _blocks_option()

    @property
    def follows_rate(self) -> bool:
        """Only where the current block has the schedule's rate."""
        return self.first is None

    def views_of(self, request: MaskingRequest) -> Tensor:
        """As many as the row has blocks, or one."""
        return _num_views(request, self.blocks)

    def select(self, request: MaskingRequest) -> Selection:
        """Hide part of the current block, and part of what follows."""
        return _by_blocks(request, self.blocks, first=self.first, second=self.second)

    def incompatibilities(self, run: RunComponents) -> Iterable[str]:
        """Attention by which no block sees what is hidden of the later ones."""
        if blocks_are_separate(run.attention_bias):
            bias = run.names["attention_bias"]
            yield f"two_stage has no second stage under {bias}, where no block sees the later ones; use bernoulli"


def _num_blocks(request: MaskingRequest) -> Tensor:
    """(B, L) int64, at least 1: blocks with eligible positions up to the last one, of each position's document."""
    document = request.document_id.clamp(min=0)
    last = torch.where(request.eligible, request.block, 0)
    return torch.zeros_like(document).scatter_reduce_(1, document, last, "amax").gather(1, document) + 1


def _num_views(request: MaskingRequest, blocks: Literal["all", "one"]) -> Tensor:
    if blocks == "one" or request.blocks_are_separate:
        return torch.ones_like(request.view_index)
    return _num_blocks(request).amax(dim=1)


def _by_blocks(
    request: MaskingRequest, blocks: Literal["all", "one"], *, first: float | None, second: float
) -> Selection:
    eligible, coin = request.eligible, request.draws.per_position("coin")
    rate = request.p if first is None else torch.full_like(request.p, first)
    if request.blocks_are_separate:
        return Selection(corrupted=eligible & (coin < rate), p_mask=rate.masked_fill(~eligible, 0.0))
    num_blocks = _num_blocks(request)
    if blocks == "all":
        current, chance = request.view_index[:, None], num_blocks.amax(dim=1, keepdim=True)
    else:
        drawn = request.draws.per_position("block").gather(1, request.document_id.clamp(min=0))
        current, chance = (drawn * num_blocks).long().clamp(max=num_blocks - 1), num_blocks
    in_current, later = eligible & (request.block == current), eligible & (request.block > current)
    scored = in_current & (coin < rate)
    return Selection(
        corrupted=scored | (later & (coin < second)),
        p_mask=(rate / chance).masked_fill(~eligible, 0.0),
        scored=scored,
    )
