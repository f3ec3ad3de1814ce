"""Where everything stands in a training batch: block, document, [noisy | clean] copies, padding, source of a shift."""

import attrs
import torch
from torch import Tensor
from torch.nn.functional import pad

from dlm.data.batch import Batch
from dlm_plugins import AttentionBias, KeyedDraws, SequenceLayout
from dlm_plugins.attention_bias import NEEDS_CLEAN_COPY


@attrs.frozen(kw_only=True)
class Moment:
    """When in a run a batch is seen, for attention that changes during training."""

    progress: float
    """In [0, 1]: the global step over the steps of the run."""
    seed: int
    step: int

    def seen(self, layout: SequenceLayout, row_index: Tensor) -> SequenceLayout:
        """The layout at this moment; ``row_index`` (B,) are the rows of the global step batch."""
        rows, length = row_index.clamp(min=0), layout.position.shape[1]
        draws = KeyedDraws(seed=self.seed, step=self.step, rows=rows, length=length, scope="attention")
        return attrs.evolve(layout, progress=self.progress, draws=draws)


def block_of(batch: Batch, block_length: int) -> Tensor:
    """Block of each position, (position - answer start) // block_length; -1 in the prompt: (B, L) int64."""
    block = torch.div(batch.position - batch.answer_start, block_length, rounding_mode="floor")
    return block.clamp(min=-1)


def training_layout(batch: Batch, block_length: int) -> SequenceLayout:
    """The layout of a single copy: the prompt counts as clean. On padding only ``document`` has a meaning."""
    block = block_of(batch, block_length)
    return SequenceLayout(position=batch.position, block=block, document=batch.document_id, is_clean=block < 0)


def with_clean_copy(layout: SequenceLayout) -> SequenceLayout:
    """The layout of [noisy | clean] rows, (B, 2L), both halves with the same positions."""
    return SequenceLayout(
        position=layout.position.repeat(1, 2),
        block=layout.block.repeat(1, 2),
        document=layout.document.repeat(1, 2),
        is_clean=torch.cat((torch.zeros_like(layout.is_clean), torch.ones_like(layout.is_clean)), dim=1),
    )


def with_causal_copy(layout: SequenceLayout, length: int) -> SequenceLayout:
    """The layout with the first ``length`` columns once more behind: a clean copy, which attends causally."""
    return SequenceLayout(
        position=torch.cat((layout.position, layout.position[:, :length]), dim=1),
        block=torch.cat((layout.block, layout.block[:, :length]), dim=1),
        document=torch.cat((layout.document, layout.document[:, :length]), dim=1),
        is_clean=pad(layout.is_clean, (0, length), value=True),
    )


def shift_source(batch: Batch, layout: SequenceLayout, bias: AttentionBias) -> Tensor:
    """Where the hidden state stands that predicts each position under ``logit_shift``: (B, L) int64.

    It is the position before, as sampling finds it. The first of a text has none and predicts itself (as Dream does).
    On [noisy | clean] rows the first of a block is predicted from the clean half (columns L to 2L - 1): in sampling the
    block before it is finished. There every document is a text of its own; in a single copy a row is one text unless
    documents are isolated.

    Args:
        layout: of the single copy.
    """
    column = torch.arange(layout.position.shape[1], device=layout.position.device).expand_as(layout.position)
    if not NEEDS_CLEAN_COPY.of(bias):
        return torch.where(batch.position_ids > 0, column - 1, column)
    starts_block = layout.block != layout.block.roll(1, dims=1)
    before = torch.where(starts_block, column - 1 + column.shape[1], column - 1)
    return torch.where(layout.position > 0, before, column)


def padded(layout: SequenceLayout, amount: int) -> SequenceLayout:
    """The layout with ``amount`` positions of padding behind each row."""
    return SequenceLayout(
        position=pad(layout.position, (0, amount)),
        block=pad(layout.block, (0, amount)),
        document=pad(layout.document, (0, amount), value=-1),
        is_clean=pad(layout.is_clean, (0, amount)),
    )
