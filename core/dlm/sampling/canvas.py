"""The canvas: prompts, masks and padding of a batch of rows, in which block each position is, what was written when."""

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from dlm.errors import UserInputError
from dlm.sampling.resolve import check_attention_mask


@attrs.define(kw_only=True, eq=False)
class Canvas:
    """B rows of T positions: prompt first, then the space for the answer. All tensors are (B, T).

    A row's answer starts at its first mask: after the prompt, or inside it when the prompt itself holds masks to be
    filled in. Blocks count from there, or from the start of the text, as they did in training.
    """

    ids: Tensor
    """int64: what stands where now; written to as decoding goes on."""
    real: Tensor
    """bool: False on padding."""
    position: Tensor
    """int64: position within the row's own text, from 0; 0 on padding."""
    writable: Tensor
    """bool: positions that held the mask at the start. Nothing else is ever written."""
    block: Tensor
    """int64: (position - origin) // block_length, where the origin is the answer's start or the text's; -1 before the
    origin and on padding."""
    committed_step: Tensor
    """int64: denoising step of its row at which a position was written, from 0; -1 where masked or given."""
    block_step: Tensor
    """int64: the same, counted within the block."""
    log_probability: Tensor
    """float32 or wider: log-probability of what was written, when it was written; 0 where masked or given."""
    mask_id: int
    block_length: int

    @classmethod
    def build(
        cls,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        *,
        gen_length: int,
        block_length: int,
        mask_id: int,
        dtype: torch.dtype,
        blocks_from_start: bool = False,
    ) -> "Canvas":
        """Lay out prompts (B, P) and ``gen_length`` masks after each.

        Args:
            attention_mask: (B, P), 0 on padding, which must be on the left of a prompt that is to be continued; ids
                that are only filled in (``gen_length`` 0) may be padded on either side.
            dtype: of the log-probabilities.
            blocks_from_start: blocks count from the start of the text, not from its first mask.

        Raises:
            UserInputError: a mask of another shape or with other values, padding in the middle.
        """
        real = _real(input_ids, attention_mask, may_pad_right=gen_length == 0)
        ids = torch.nn.functional.pad(input_ids.long(), (0, gen_length), value=mask_id)
        real = torch.nn.functional.pad(real, (0, gen_length), value=True)
        position = (real.long().cumsum(dim=1) - 1).clamp(min=0) * real
        writable = (ids == mask_id) & real
        never = torch.full_like(ids, -1)
        block = never
        if ids.shape[1]:
            first = position.gather(1, writable.long().argmax(dim=1, keepdim=True))
            origin = torch.zeros_like(first) if blocks_from_start else first
            block = torch.where(real, torch.div(position - origin, block_length, rounding_mode="floor"), -1)
        return cls(
            ids=ids,
            real=real,
            position=position,
            writable=writable,
            block=block.clamp(min=-1),
            committed_step=never,
            block_step=never.clone(),
            log_probability=torch.zeros(ids.shape, dtype=dtype, device=ids.device),
            mask_id=mask_id,
            block_length=block_length,
        )

    @classmethod
    def joined(cls, parts: Sequence["Canvas"], kept: Sequence[int], starts: Sequence[int]) -> "Canvas":
        """One canvas for several of one row each, laid out so that all begin anew at the same column.

        Args:
            parts: the canvases.
            kept: columns of each that stand before that column, its first ones.
            starts: column of each that stands at that column; what is between is left out.
        """
        place = max(kept)
        width = place + max(part.ids.shape[1] - start for part, start in zip(parts, starts, strict=True))

        def tensor(name: str, elsewhere: float) -> Tensor:
            first: Tensor = getattr(parts[0], name)
            filled = first.new_full((len(parts), width), elsewhere)
            for row, (part, end, start) in enumerate(zip(parts, kept, starts, strict=True)):
                own = getattr(part, name)[0]
                filled[row, place - end : place] = own[:end]
                filled[row, place : place + len(own) - start] = own[start:]
            return filled

        return cls(
            ids=tensor("ids", 0),
            real=tensor("real", False),
            position=tensor("position", 0),
            writable=tensor("writable", False),
            block=tensor("block", -1),
            committed_step=tensor("committed_step", -1),
            block_step=tensor("block_step", -1),
            log_probability=tensor("log_probability", 0.0),
            mask_id=parts[0].mask_id,
            block_length=max(part.block_length for part in parts),
        )

    def give(self, part: "Canvas", row: int, place: int, start: int) -> None:
        """Copy what was written in a row, from column ``place`` on, back to its own canvas, from ``start`` on."""
        end = place + part.ids.shape[1] - start
        for name in ("ids", "committed_step", "block_step", "log_probability"):
            getattr(part, name)[0, start:] = getattr(self, name)[row, place:end]

    @property
    def masked(self) -> Tensor:
        """(B, T) bool: positions that still wait for a token."""
        return self.writable & (self.ids == self.mask_id)

    def source_of(self, at_row: Tensor, at_column: Tensor, shift: int) -> Tensor:
        """(N,) int64: columns whose hidden states predict N positions, each ``shift`` (0 or 1) before.

        The first position of a text has none before it and is predicted from its own.
        """
        return at_column - shift * (self.position[at_row, at_column] > 0).long()

    def fill_after_end(self, eos_ids: Tensor) -> Tensor:
        """Fill every block after a finished one that holds an end of text, and say which rows have ended: (B,) bool.

        Only the run of writable positions at the end of a row counts: an end of text before something that was given is
        no end. A block is finished when none of its positions is masked. The positions filled count as given.
        """
        given = self.real & ~self.writable
        is_tail = self.writable & (given.flip(1).cumsum(dim=1).flip(1) == 0)
        never = torch.iinfo(torch.long).max
        unfinished = torch.where(self.masked, self.block, never).amin(dim=1, keepdim=True)
        is_end = is_tail & torch.isin(self.ids, eos_ids) & (self.block < unfinished)
        last_block = torch.where(is_end, self.block, never).amin(dim=1, keepdim=True)
        after = is_tail & (self.block > last_block)
        self.ids = torch.where(after, eos_ids[0], self.ids)
        self.committed_step.masked_fill_(after, -1)
        self.block_step.masked_fill_(after, -1)
        self.log_probability.masked_fill_(after, 0.0)
        return is_end.any(dim=1)


def _real(input_ids: Tensor, attention_mask: Tensor | None, *, may_pad_right: bool) -> Tensor:
    if attention_mask is None:
        return torch.ones_like(input_ids, dtype=torch.bool)
    check_attention_mask(attention_mask, input_ids)
    real = attention_mask.to(device=input_ids.device, dtype=torch.bool)
    change = real.long().diff(dim=1)
    if bool(((change == 1).sum(dim=1) + real[:, :1].sum(dim=1) > 1).any()):
        raise UserInputError("attention_mask has padding in the middle of a row")
    if not may_pad_right and bool((change == -1).any()):
        raise UserInputError(
            "attention_mask has padding to the right of a prompt that is to be continued: pad on the left "
            "(tokenizer.padding_side = 'left')"
        )
    return real
