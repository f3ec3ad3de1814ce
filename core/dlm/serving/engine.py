"""The engine: one thread owns the model, lets waiting rows in and ended ones out, and decodes those at hand in turn."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs
import torch

from dlm.config.sampling_settings import SamplingSettings
from dlm.errors import DlmError
from dlm.sampling.api import GenerateState, denoise

logger = logging.getLogger(__name__)


class QueueFullError(Exception):
    """More rows are waiting than the engine lets wait."""


@attrs.define(kw_only=True, eq=False)
class Row:
    """One text that is to be written. Its callbacks are called in the engine's thread, and must not take long."""

    ids: tuple[int, ...]
    """Of the prompt; masks among them are filled in."""
    settings: SamplingSettings
    key: int
    """Of its randomness: its number among the samples of its prompt."""
    on_state: Callable[[GenerateState], None] | None = None
    """Called after each denoising step, and before the first; None: nobody looks."""
    on_end: Callable[[GenerateState | Exception], None]
    """Called once: with the last state, or with what went wrong. Not called for a row that was cancelled."""
    is_cancelled: bool = False
    """Set by whoever no longer wants the text; the row leaves within a block."""


@attrs.define(kw_only=True, eq=False)
class Engine:
    """Writes rows. :meth:`start` starts the thread, and nobody else may use the model until :meth:`stop` returns."""

    model: Any
    max_rows: int
    """Rows that are written at the same time."""
    max_waiting: int
    """Rows that may wait for their turn."""
    _waiting: deque[Row] = attrs.field(factory=deque, init=False)
    _live: dict[Row, Iterator[None]] = attrs.field(factory=dict, init=False)
    _changed: threading.Condition = attrs.field(factory=threading.Condition, init=False)
    _is_stopping: bool = attrs.field(default=False, init=False)
    _thread: threading.Thread = attrs.field(init=False)

    def start(self) -> None:
        """Begin to serve."""
        self._thread = threading.Thread(target=self._run, name="dlm-engine", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End after the step at hand; rows that are not finished get no end."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        self._thread.join()

    @property
    def is_running(self) -> bool:
        """Whether the thread lives."""
        return self._thread.is_alive()

    @property
    def num_live(self) -> int:
        """Rows that are being written."""
        return len(self._live)

    @property
    def num_waiting(self) -> int:
        """Rows that wait."""
        return len(self._waiting)

    def submit(self, rows: Sequence[Row]) -> None:
        """Let rows wait for their turn, all of them or none.

        Raises:
            QueueFullError: too many would wait.
        """
        with self._changed:
            if len(self._waiting) + len(rows) > self.max_waiting:
                raise QueueFullError
            self._waiting.extend(rows)
            self._changed.notify()

    def _run(self) -> None:
        while self._admit():
            for row in list(self._live):
                self._step(row)

    def _admit(self) -> bool:
        """Wait until there is something to do, and let rows in; False at the end."""
        with self._changed:
            for row in [row for row in self._live if row.is_cancelled]:
                del self._live[row]
            while not (self._live or self._waiting or self._is_stopping):
                self._changed.wait()
            while self._waiting and len(self._live) < self.max_rows:
                row = self._waiting.popleft()
                if not row.is_cancelled:
                    self._live[row] = self._states(row)
            return not self._is_stopping

    def _step(self, row: Row) -> None:
        try:
            next(self._live[row])
        except StopIteration:
            del self._live[row]
        except Exception as error:
            del self._live[row]
            if not isinstance(error, DlmError):
                logger.exception("a row could not be written")
            row.on_end(error)

    def _states(self, row: Row) -> Iterator[None]:
        ids = torch.tensor([row.ids], dtype=torch.long, device=next(self.model.parameters()).device)
        for state in denoise(self.model, ids, row.settings, row_keys=torch.tensor([row.key])):
            if row.on_state is not None:
                row.on_state(state)
            yield
        row.on_end(state)
