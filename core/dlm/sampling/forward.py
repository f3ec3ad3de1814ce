"""The plain way through the model: the whole canvas, every step."""

from typing import Protocol

import torch
from torch import Tensor

from dlm.sampling.canvas import Canvas
from dlm.sampling.decoder import Decoder, Masks
from dlm.sampling.plan import Stage
from dlm_plugins import SequenceLayout


class Forward(Protocol):
    """A way to get hidden states of the active blocks."""

    def begin(self, wave: list[Stage]) -> None:
        """Prepare for the blocks of one wave."""
        ...

    def hidden(self, rows: Tensor, at_row: Tensor, at_column: Tensor) -> Tensor:
        """Hidden states (N, H) that predict N positions, after one forward of some rows of the canvas.

        Args:
            rows: (A,) int64, ascending: the rows that take part.
            at_row: (N,) int64: row of each position, one of ``rows``.
            at_column: (N,) int64.
        """
        ...

    def end(self, wave: list[Stage]) -> None:
        """The blocks of the wave are complete."""
        ...


class PlainForward:
    """Runs the model over the whole canvas."""

    def __init__(self, decoder: Decoder, canvas: Canvas, cfg_scale: float) -> None:
        self._decoder = decoder
        self._canvas = canvas
        self._cfg_scale = cfg_scale
        self._masks = Masks(None)

    def begin(self, wave: list[Stage]) -> None:
        """Compute the attention masks of the wave."""
        columns = torch.arange(self._canvas.ids.shape[1], device=self._canvas.ids.device)
        self._masks = self._decoder.masks(layout_of(self._canvas, wave), columns, columns)

    def hidden(self, rows: Tensor, at_row: Tensor, at_column: Tensor) -> Tensor:
        """See :class:`Forward`."""
        canvas = self._canvas
        is_all = len(rows) == len(canvas.ids)
        masks = self._masks if is_all else self._masks.of_rows(rows)
        ids, position = (canvas.ids, canvas.position) if is_all else (canvas.ids[rows], canvas.position[rows])
        if self._cfg_scale:
            without_prompt = unconditional(canvas)
            ids = torch.cat((ids, without_prompt if is_all else without_prompt[rows]))
            position, masks = position.repeat(2, 1), masks.doubled()
        hidden = self._decoder.forward(ids, position, masks)
        return pick(hidden, rows, at_row, at_column, self._decoder.logit_shift, self._cfg_scale)

    def end(self, wave: list[Stage]) -> None:
        """Nothing is kept."""


def layout_of(canvas: Canvas, wave: list[Stage]) -> SequenceLayout:
    """What stands where while ``wave`` is decoded: prompt and finished blocks are clean."""
    active = torch.full_like(canvas.block[:, :1], torch.iinfo(torch.long).max)
    for stage in wave:
        number = canvas.block[stage.row, stage.columns[:, 0]]
        active.scatter_reduce_(0, stage.row[:, None], number[:, None], "amin")
    return SequenceLayout(
        position=canvas.position,
        block=canvas.block,
        document=torch.where(canvas.real, 0, -1),
        is_clean=canvas.block < active,
    )


def unconditional(canvas: Canvas) -> Tensor:
    """(B, T) the canvas with everything that was given replaced by masks, for classifier-free guidance."""
    return torch.where(canvas.writable, canvas.ids, canvas.mask_id)


def pick(hidden: Tensor, rows: Tensor, at_row: Tensor, at_index: Tensor, logit_shift: bool, cfg_scale: float) -> Tensor:
    """Hidden states that predict N positions, out of (A, Q, H), or (2A, Q, H) with the unconditional copies last.

    Guidance is un + (s + 1)(cond - un), taken on hidden states: the head is linear, so it is the same on logits at
    twice the cost. A first position, which no hidden state predicts under a shift, is predicted from its own.
    """
    index = torch.searchsorted(rows, at_row)
    if logit_shift:
        at_index = (at_index - 1).clamp(min=0)
    conditional = hidden[index, at_index]
    if not cfg_scale:
        return conditional
    exact = torch.promote_types(hidden.dtype, torch.float32)
    free = hidden[index + len(rows), at_index].to(exact)
    return (free + (cfg_scale + 1.0) * (conditional.to(exact) - free)).to(hidden.dtype)
