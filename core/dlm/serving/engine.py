"""The engine: one thread owns the model, lets waiting rows in and ended ones out, and decodes those at hand in turn."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from dlm.config.sampling_settings import SamplingSettings
from dlm.errors import DlmError
from dlm.sampling.api import GenerateState
from dlm.serving.joint_block import JointBlock, RowOnItsWay

logger = logging.getLogger(__name__)


class QueueFullError(Exception):
    """More rows are waiting than the engine lets wait."""


class StoppedError(Exception):
    """The engine was stopped before a text was complete."""


@attrs.define(kw_only=True, eq=False)
class Row:
    """One text that is to be written. Its callbacks are called in the engine's thread, and must not take long."""

    ids: tuple[int, ...]
    """Of the prompt; masks among them are filled in."""
    settings: SamplingSettings
    key: int
    """Of its randomness: its number in its request."""
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
    _live: dict[Row, RowOnItsWay] = attrs.field(factory=dict, init=False)
    _changed: threading.Condition = attrs.field(factory=threading.Condition, init=False)
    _is_stopping: bool = attrs.field(default=False, init=False)
    _thread: threading.Thread = attrs.field(init=False)

    def start(self) -> None:
        """Begin to serve."""
        self._thread = threading.Thread(target=self._run, name="dlm-engine", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End after the step at hand; rows that are not finished end with a :class:`StoppedError`."""
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
            StoppedError: nobody would write them.
        """
        with self._changed:
            if self._is_stopping:
                raise StoppedError
            self._forget_cancelled()
            if len(self._waiting) + len(rows) > self.max_waiting:
                raise QueueFullError
            self._waiting.extend(rows)
            self._changed.notify()

    def _forget_cancelled(self) -> None:
        self._waiting = deque(row for row in self._waiting if not row.is_cancelled)

    def _run(self) -> None:
        while self._admit():
            members = self._next_block()
            if members:
                self._decode(members)
        self._fail([row for row in (*self._live, *self._waiting) if not row.is_cancelled], StoppedError())

    def _admit(self) -> bool:
        """Wait until there is something to do, let rows go and others in; False at the end."""
        with self._changed:
            self._forget_cancelled()
            self._drop([row for row in self._live if row.is_cancelled])
            while not (self._live or self._waiting or self._is_stopping):
                self._changed.wait()
            admitted: list[Row] = []
            while self._waiting and not self._is_stopping and len(self._live) + len(admitted) < self.max_rows:
                admitted.append(self._waiting.popleft())
        for row in admitted:
            if not row.is_cancelled:
                self._lay_out(row)
        return not self._is_stopping

    def _lay_out(self, row: Row) -> None:
        try:
            self._live[row] = RowOnItsWay.of(self.model, row.ids, row.settings, row.key)
            self._show(row, 0.0)
        except Exception as error:
            self._fail([row], error)

    def _next_block(self) -> list[Row]:
        """The rows that go with the one that has waited longest."""
        first = next(iter(self._live.values()), None)
        return [] if first is None else [row for row, way in self._live.items() if first.goes_with(way)]

    def _decode(self, members: Sequence[Row]) -> None:
        """One block of rows that go together."""
        try:
            block = JointBlock([self._live[row] for row in members])
            for seconds in block.steps():
                if self._is_stopping or all(row.is_cancelled for row in members):
                    return
                for index, row in enumerate(members):
                    if row.on_state is not None and not row.is_cancelled:
                        block.bring(index)
                        self._show(row, seconds)
            block.end()
        except Exception as error:
            self._fail(members, error)
            return
        for row in members:
            # Behind the others, which come next.
            way = self._live[row] = self._live.pop(row)
            if way.is_complete:
                self._drop([row])
                if not row.is_cancelled:
                    row.on_end(way.state())

    def _show(self, row: Row, seconds: float) -> None:
        if row.on_state is not None:
            row.on_state(self._live[row].state(seconds))

    def _drop(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._live.pop(row, None)

    def _fail(self, rows: Sequence[Row], error: Exception) -> None:
        if not isinstance(error, DlmError | StoppedError):
            logger.error("a text could not be written", exc_info=error)
        self._drop(rows)
        for row in rows:
            row.on_end(error)
