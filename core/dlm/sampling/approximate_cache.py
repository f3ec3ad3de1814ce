"""Approximate KV cache (prefix, dual; Fast-dLLM): keys and values are reused although they would have changed."""

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from dlm.sampling.decoder import Masks
from dlm.sampling.full_forward import Runner, layout_of
from dlm.sampling.kv_store import KeyValueStore
from dlm.sampling.plan import Stage, columns_of


@attrs.define(kw_only=True, eq=False)
class StaleForward:
    """Runs the whole canvas at the first step of each block, and part of it at the others (Fast-dLLM).

    Wu et al. 2025, "Fast-dLLM", arXiv:2505.22618. In between, positions outside the part keep the keys and values of
    the last whole forward, which knew less of the answer: approximate for every model in which they would change.
    """

    runner: Runner
    keeps_suffix: bool
    """Whether what follows the block is reused too (the dual cache), or only what precedes it (the prefix cache)."""
    refresh_every: int | None
    """Steps of a block between two whole forwards; None: only the first step is whole."""
    _store: KeyValueStore = attrs.field(init=False)
    _whole: Masks = attrs.field(init=False, factory=lambda: Masks(None))
    _partial: Masks = attrs.field(init=False, factory=lambda: Masks(None))
    _window: slice = attrs.field(init=False, default=slice(0, 0))
    _step: int = attrs.field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        self._store = KeyValueStore(self.runner.canvas.ids.shape[1])

    def begin(self, wave: list[Stage]) -> None:
        """Choose the columns of the wave, and compute both masks."""
        runner = self.runner
        num_columns = runner.canvas.ids.shape[1]
        start, stop = columns_of(wave)
        start = max(start - runner.decoder.shift, 0)
        self._window = slice(start, stop if self.keeps_suffix else num_columns)
        self._step = 0
        layout = layout_of(runner.canvas, wave)
        columns = torch.arange(num_columns, device=runner.canvas.ids.device)
        self._whole = runner.decoder.masks(layout, columns, columns)
        self._partial = runner.decoder.masks(layout, columns[self._window], columns)
        self._store.read_to = num_columns

    def hidden(self, rows: Tensor, at_row: Tensor, at_column: Tensor) -> Tensor:
        """See :class:`dlm.sampling.full_forward.Forward`. All rows run, so that the store stays whole."""
        runner = self.runner
        is_whole = self._step == 0 or (self.refresh_every is not None and self._step % self.refresh_every == 0)
        self._step += 1
        window = slice(0, runner.canvas.ids.shape[1]) if is_whole else self._window
        self._store.write_at = window.start
        hidden = runner.run(window, self._whole if is_whole else self._partial, None, self._store)
        everyone = torch.arange(len(runner.canvas.ids), device=rows.device)
        return runner.pick(hidden, everyone, at_row, at_column - window.start)

    def end(self, wave: list[Stage]) -> None:
        """The next block begins with a whole forward."""

    def prefix(self, wave: list[Stage]) -> tuple[int, int]:
        """Nothing is kept from block to block."""
        return 0, 0

    def joined(self, runner: Runner, parts: Sequence["StaleForward"], kept: Sequence[int]) -> "StaleForward":
        """Only by itself: which columns are stale would depend on the others."""
        assert len(parts) == 1
        return attrs.evolve(self, runner=runner)

    def give(self, part: "StaleForward", row: int, kept: int, num_columns: int) -> None:
        """Nothing is kept from block to block."""
