"""One request on its way: its rows go to the engine, their states come back, on the event loop, as pieces of text."""

import asyncio
from collections.abc import AsyncIterator, Callable

import attrs

from dlm.errors import DlmError
from dlm.sampling.api import GenerateState
from dlm.sampling.session import Session
from dlm.serving.api_errors import ApiError, refused
from dlm.serving.engine import Engine, QueueFullError, Row, StoppedError
from dlm.serving.requests import Wanted
from dlm.serving.row_text import RowText
from dlm_plugins.remasking import RESPECTS_QUOTA


@attrs.define(kw_only=True, eq=False)
class Event:
    """What became of a row. Until it is taken, newer states replace the one it holds."""

    index: int
    """Of the row among those of its request."""
    state: GenerateState
    is_last: bool


class Writing:
    """The rows of a request. Must be left by :meth:`cancel`, however it ends."""

    def __init__(self, engine: Engine, wanted: Wanted, *, watches: bool) -> None:
        """Queue the rows.

        Args:
            engine: writes them.
            wanted: what is asked for.
            watches: whether states before the last are looked at.

        Raises:
            ApiError: the queue is full, or the server ends.
        """
        self._events: asyncio.Queue[Event | Exception] = asyncio.Queue()
        self._untaken: dict[int, Event] = {}
        self._loop = asyncio.get_running_loop()
        pairs = zip(wanted.prompts, wanted.settings, strict=True)
        samples = [pair for pair in pairs for _ in range(wanted.body.num_samples)]
        self.rows = [
            Row(
                ids=ids,
                settings=settings,
                key=index,
                on_state=self._teller(index) if watches else None,
                on_end=self._ender(index),
            )
            for index, (ids, settings) in enumerate(samples)
        ]
        try:
            engine.submit(self.rows)
        except QueueFullError:
            raise ApiError(status=503, message="too many requests are waiting; try again later") from None
        except StoppedError as error:
            raise _as_api_error(error) from None

    async def events(self, seconds: float) -> AsyncIterator[Event]:
        """What becomes of the rows, until all are at their end or cancelled.

        Raises:
            ApiError: a row that could not be written, or not in so many seconds.
        """
        deadline = self._loop.time() + seconds
        waits_for = set(range(len(self.rows)))
        while waits_for:
            try:
                event = await asyncio.wait_for(self._events.get(), deadline - self._loop.time())
            except TimeoutError:
                message = f"the text was not written within {seconds:g} seconds"
                raise ApiError(status=504, message=message, code="timeout") from None
            if isinstance(event, Exception):
                raise _as_api_error(event) from event
            if self._untaken.get(event.index) is event:
                del self._untaken[event.index]
            if event.index not in waits_for:
                continue
            if event.is_last:
                waits_for.discard(event.index)
            yield event
            if self.rows[event.index].is_cancelled:
                waits_for.discard(event.index)

    def cancel(self) -> None:
        """Let the rows that are not finished go."""
        for row in self.rows:
            row.is_cancelled = True

    def _teller(self, index: int) -> Callable[[GenerateState], None]:
        return lambda state: self._put(Event(index=index, state=state, is_last=False))

    def _ender(self, index: int) -> Callable[[GenerateState | Exception], None]:
        def end(result: GenerateState | Exception) -> None:
            if isinstance(result, GenerateState):
                self._put(Event(index=index, state=result, is_last=True))
            else:
                self._put(result)

        return end

    def _put(self, event: Event | Exception) -> None:
        self._loop.call_soon_threadsafe(self._take_in, event)

    def _take_in(self, event: Event | Exception) -> None:
        """On the event loop: a client that reads slowly gets fewer states, and never keeps all of them in memory."""
        before = None if isinstance(event, Exception) else self._untaken.get(event.index)
        if isinstance(event, Exception) or before is None or before.state.step == 0:
            self._events.put_nowait(event)
            if isinstance(event, Event):
                self._untaken[event.index] = event
        else:
            before.state, before.is_last = event.state, event.is_last


def texts_of(writing: Writing, wanted: Wanted, session: Session) -> list[RowText]:
    """The texts of a request's rows, still empty."""
    mask_id, ends = session.mask_id, () if wanted.is_infill else session.eos_ids
    return [
        RowText(
            tokenizer=session.tokenizer,
            ends=ends,
            num_given=0 if wanted.is_infill else len(row.ids),
            given=[place for place, each in enumerate(row.ids) if each != mask_id] if wanted.is_infill else (),
            stops=wanted.body.stops,
            takes_nothing_back=RESPECTS_QUOTA.of(row.settings.remasking),
        )
        for row in writing.rows
    ]


def _as_api_error(error: Exception) -> ApiError:
    if isinstance(error, DlmError):
        return refused(str(error))
    if isinstance(error, StoppedError):
        return ApiError(status=503, message="the server is ending; try again later")
    return ApiError(status=500, message="the text could not be written; the server's log says why")
