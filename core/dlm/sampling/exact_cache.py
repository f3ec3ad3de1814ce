"""Exact KV cache: keys and values of prompt and finished blocks are kept where they can no longer change."""

from collections.abc import Sequence
from typing import Self

import attrs
import torch
from torch import Tensor

from dlm.sampling.decoder import Masks
from dlm.sampling.full_forward import Runner, layout_of, layout_with_clean
from dlm.sampling.kv_store import KeyValueStore
from dlm.sampling.plan import Stage, columns_of
from dlm_plugins import SequenceLayout


@attrs.define(eq=False)
class CachedForward:
    """Runs only columns that can still change what is predicted. The base of the exact caches.

    Exact under an attention bias that claims ``prefix_is_static``: prompt positions see prompt positions only, so their
    keys and values are those of the first forward.
    """

    _runner: Runner
    _num_prompt: int
    """Columns before the first mask of any row: prompt and padding."""
    _store: KeyValueStore = attrs.field(init=False)
    _masks: Masks = attrs.field(init=False)
    _window: slice = attrs.field(init=False, default=slice(0, 0))
    _before: Tensor | None = attrs.field(init=False, default=None)
    """(B, 1, H) or (2B, 1, H): hidden states just before the window, for a logit shift."""
    _last: Tensor | None = attrs.field(init=False, default=None)
    """(B, Q, H) or (2B, Q, H): hidden states of the columns that were kept last."""
    _part: tuple[Tensor, KeyValueStore] | None = attrs.field(init=False, default=None)
    """Some rows, and the store of these rows."""

    def __attrs_post_init__(self) -> None:
        self._store = KeyValueStore(self._runner.canvas.ids.shape[1])
        self._masks = Masks(None)

    def begin(self, wave: list[Stage]) -> None:
        """Run the prompt, the first time; then choose the columns of the wave."""
        layout = layout_of(self._runner.canvas, wave)
        self._keep_prompt(layout)
        self._window = self.window_of(wave)
        self._aim(self._window, layout)

    def _keep_prompt(self, layout: SequenceLayout) -> None:
        if self._before is None and self._num_prompt:
            self._run_once(slice(0, self._num_prompt), layout)

    def prefix(self, wave: list[Stage]) -> tuple[int, int]:
        """See :class:`dlm.sampling.full_forward.Forward`."""
        self._keep_prompt(layout_of(self._runner.canvas, wave))
        return self.first_slot, self.window_of(wave).start

    def joined(self, runner: Runner, parts: Sequence[Self], kept: Sequence[int]) -> Self:
        """See :class:`dlm.sampling.full_forward.Forward`."""
        joint = type(self)(runner, max(kept))
        joint._store = KeyValueStore.joined(
            [part._store for part in parts],
            kept,
            num_copies=2 if runner.cfg_scale else 1,
            capacity=runner.canvas.ids.shape[1],
        )
        befores = [part._before for part in parts]
        some = next((each for each in befores if each is not None), None)
        if some is not None:
            # A row with nothing before its first position asks for nothing there.
            pairs = [torch.zeros_like(some) if each is None else each for each in befores]
            joint._before = torch.stack(pairs, dim=1).flatten(0, 1)
        return joint

    def give(self, part: Self, row: int, kept: int, num_columns: int) -> None:
        """The prompt's keys and values stay as they are."""

    def window_of(self, wave: list[Stage]) -> slice:
        """Everything after the prompt."""
        return slice(self._num_prompt, self._runner.canvas.ids.shape[1])

    @property
    def first_slot(self) -> int:
        """Where the window's keys and values go: behind everything that is kept."""
        return self._num_prompt

    def hidden(self, rows: Tensor, at_row: Tensor, at_column: Tensor) -> Tensor:
        """See :class:`dlm.sampling.full_forward.Forward`."""
        runner = self._runner
        subset = runner.subset(rows)
        hidden = runner.run(self._window, self._masks, subset, self._store_of(subset))
        at_index = at_column - self._window.start
        if runner.decoder.shift and self._before is not None:
            hidden = torch.cat((self._before[self._with_copies(rows)], hidden), dim=1)
            at_index = at_index + 1
        return runner.pick(hidden, rows, at_row, at_index)

    def end(self, wave: list[Stage]) -> None:
        """Nothing more is kept."""

    def _run_once(self, columns: slice, layout: SequenceLayout) -> None:
        """Run columns of all rows and keep their keys and values."""
        self._aim(columns, layout, first_slot=columns.start)
        self._last = self._runner.run(columns, self._masks, None, self._store)
        self._before = self._last[:, -1:]

    def _aim(self, columns: slice, layout: SequenceLayout, first_slot: int | None = None) -> None:
        """Direct the store and the masks at some columns: they see what is kept, and each other."""
        first_slot = self.first_slot if first_slot is None else first_slot
        self._store.write_at = first_slot
        self._store.read_to = first_slot + columns.stop - columns.start
        self._part = None
        device = self._runner.canvas.ids.device
        queries = torch.arange(columns.start, columns.stop, device=device)
        keys = torch.cat((torch.arange(first_slot, device=device), queries))
        self._masks = self._runner.decoder.masks(layout, queries, keys)

    def _store_of(self, rows: Tensor | None) -> KeyValueStore:
        """The store of some rows; copied once for as long as the rows stay the same."""
        if rows is None:
            return self._store
        if self._part is None or not torch.equal(self._part[0], rows):
            self._part = rows, self._store.of_rows(self._with_copies(rows))
        return self._part[1]

    def _with_copies(self, rows: Tensor) -> Tensor:
        """Rows of the canvas, and their unconditional copies where there is guidance."""
        return torch.cat((rows, rows + len(self._runner.canvas.ids))) if self._runner.cfg_scale else rows


class IndependentBlocksForward(CachedForward):
    """Runs the active blocks behind the prompt's keys and values, and nothing else.

    Exact where the bias also claims ``blocks_are_independent``: no block sees another. All rows have their blocks at
    the same columns.
    """

    def window_of(self, wave: list[Stage]) -> slice:
        """The active blocks."""
        return slice(*columns_of(wave))


class BlockCausalForward(CachedForward):
    """Runs the active block behind the keys and values of prompt and finished blocks, which are kept one by one.

    Exact for block diffusion (a bias that claims ``needs_clean_copy``): a block sees the clean blocks before it and
    itself, so that a finished block never changes again. Each finished block costs one forward, which makes its clean
    keys and values. All rows have their blocks at the same columns.
    """

    _num_kept: int = 0

    @property
    def first_slot(self) -> int:
        """Behind the last finished block."""
        return max(self._num_kept, self._num_prompt)

    def window_of(self, wave: list[Stage]) -> slice:
        """From the last block that is kept to the end of the active one."""
        return slice(self.first_slot, columns_of(wave)[1])

    def end(self, wave: list[Stage]) -> None:
        """Keep the finished block."""
        canvas = self._runner.canvas
        columns = torch.arange(canvas.ids.shape[1], device=canvas.ids.device)
        self._run_once(self._window, layout_with_clean(canvas, (columns < self._window.stop)[None] & canvas.real))
        self._num_kept = self._window.stop

    def give(self, part: Self, row: int, kept: int, num_columns: int) -> None:
        """See :class:`dlm.sampling.full_forward.Forward`."""
        assert self._last is not None, "the block was kept"
        rows, start = slice(row, None, len(self._runner.canvas.ids)), self._window.start
        self._store.give(part._store, rows, slice(start, start + num_columns), kept)
        part._before = self._last[rows, num_columns - 1 : num_columns]
        part._num_kept = kept + num_columns
