"""One forward without cache over the whole canvas, and classifier-free guidance (CFG) for all kinds of forward."""

from collections.abc import Sequence
from typing import Protocol, Self

import attrs
import torch
from torch import Tensor

from dlm.sampling.canvas import Canvas
from dlm.sampling.decoder import Decoder, Masks
from dlm.sampling.kv_store import KeyValueStore
from dlm.sampling.plan import Stage
from dlm_plugins import SequenceLayout

# A rows take part, Q columns of the canvas go through the model, N positions are predicted.


class Forward(Protocol):
    """A way to get hidden states of the active blocks."""

    def begin(self, wave: list[Stage]) -> None:
        """Prepare for the blocks of one wave."""
        ...

    def hidden(self, rows: Tensor, at_row: Tensor, at_column: Tensor) -> Tensor:
        """Hidden states (N, H) of N positions, after one forward of some rows of the canvas.

        Args:
            rows: (A,) int64, ascending: the rows that take part.
            at_row: (N,) int64: row of each position, one of ``rows``.
            at_column: (N,) int64: in the active blocks; under a logit shift also just before one.
        """
        ...

    def end(self, wave: list[Stage]) -> None:
        """The blocks of the wave are complete, and others follow."""
        ...

    # A canvas of one row can be joined with others for a block: the columns that are kept stay before it.

    def prefix(self, wave: list[Stage]) -> tuple[int, int]:
        """Run what has to be kept before a block, and say how many columns are, and at which one the rest begins."""
        ...

    def joined(self, runner: "Runner", parts: Sequence[Self], kept: Sequence[int]) -> Self:
        """The same way on a canvas that joins those of ``parts``, each with so many columns that are kept."""
        ...

    def give(self, part: Self, row: int, kept: int, num_columns: int) -> None:
        """After :meth:`end`: hand what is kept of a row's block of so many columns back, behind what was kept."""
        ...


@attrs.frozen(kw_only=True, eq=False)
class Runner:
    """Runs columns of the canvas, with the unconditional copies beside them where there is guidance."""

    decoder: Decoder
    canvas: Canvas
    cfg_scale: float

    def run(
        self, columns: slice, masks: Masks, rows: Tensor | None = None, store: KeyValueStore | None = None
    ) -> Tensor:
        """Hidden states of columns: (A, Q, H), or (2A, Q, H) with the unconditional copies last.

        Args:
            columns: Q columns.
            masks: of all rows.
            rows: (A,) int64; None: all.
            store: keys and values of the same rows, to be written to and read from.
        """
        canvas = self.canvas
        ids, position = canvas.ids[:, columns], canvas.position[:, columns]
        if rows is not None:
            ids, position, masks = ids[rows], position[rows], masks.of_rows(rows)
        if self.cfg_scale:
            writable = canvas.writable[:, columns]
            # Everything that was given is masked in the unconditional copy.
            free = torch.where(writable if rows is None else writable[rows], ids, canvas.mask_id)
            ids, position, masks = torch.cat((ids, free)), position.repeat(2, 1), masks.doubled()
        return self.decoder.forward(ids, position, masks, store)

    def subset(self, rows: Tensor) -> Tensor | None:
        """None for all rows, else ``rows``."""
        return None if len(rows) == len(self.canvas.ids) else rows

    def pick(self, hidden: Tensor, rows: Tensor, at_row: Tensor, at_index: Tensor) -> Tensor:
        """Hidden states (N, H) at places (row, index) of what :meth:`run` returned for ``rows``.

        Guidance is un + (s + 1)(cond - un), taken on hidden states: the head is linear, so that logits would give the
        same at twice the cost.
        """
        index = torch.searchsorted(rows, at_row)
        conditional = hidden[index, at_index]
        if not self.cfg_scale:
            return conditional
        exact = torch.promote_types(hidden.dtype, torch.float32)
        free = hidden[index + len(rows), at_index].to(exact)
        return (free + (self.cfg_scale + 1.0) * (conditional.to(exact) - free)).to(hidden.dtype)


class PlainForward:
    """Runs the model over the whole canvas, every step. Exact by definition."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._masks = Masks(None)

    def begin(self, wave: list[Stage]) -> None:
        """Compute the attention masks of the wave."""
        canvas = self._runner.canvas
        columns = torch.arange(canvas.ids.shape[1], device=canvas.ids.device)
        self._masks = self._runner.decoder.masks(layout_of(canvas, wave), columns, columns)

    def hidden(self, rows: Tensor, at_row: Tensor, at_column: Tensor) -> Tensor:
        """See :class:`Forward`."""
        runner = self._runner
        hidden = runner.run(slice(None), self._masks, runner.subset(rows))
        return runner.pick(hidden, rows, at_row, at_column)

    def end(self, wave: list[Stage]) -> None:
        """Nothing is kept."""

    def prefix(self, wave: list[Stage]) -> tuple[int, int]:
        """Nothing is kept."""
        return 0, 0

    def joined(self, runner: Runner, parts: Sequence["PlainForward"], kept: Sequence[int]) -> "PlainForward":
        """See :class:`Forward`."""
        return PlainForward(runner)

    def give(self, part: "PlainForward", row: int, kept: int, num_columns: int) -> None:
        """Nothing is kept."""


def layout_of(canvas: Canvas, wave: list[Stage]) -> SequenceLayout:
    """What stands where while ``wave`` is decoded: the prompt and the blocks before the wave are clean."""
    first = torch.full_like(canvas.block[:, :1], torch.iinfo(torch.long).max)
    for stage in wave:
        number = canvas.block[stage.row, stage.columns[:, 0]]
        first = first.scatter_reduce(0, stage.row[:, None], number[:, None], "amin")
    return layout_with_clean(canvas, canvas.block < first)


def layout_with_clean(canvas: Canvas, is_clean: Tensor) -> SequenceLayout:
    """The layout of the canvas with the given positions (B, T) clean."""
    return SequenceLayout(
        position=canvas.position,
        block=canvas.block,
        document=torch.where(canvas.real, 0, -1),
        is_clean=is_clean,
    )
