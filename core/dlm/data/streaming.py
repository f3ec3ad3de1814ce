"""Streaming: packed rows from a data set of unknown length, resumable at every step."""

import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from dlm.data.batch import FILLER, StepBatch, StepShape
from dlm.data.loader import Collate
from dlm.data.rows import Row
from dlm.data.source_records import Source, SourceState
from dlm.data.text_column import TextCounts, text_in_column
from dlm.data.tokenization import encode_texts, eos_id_of
from dlm.errors import DataError

logger = logging.getLogger(__name__)

_DOCUMENTS_PER_GROUP = 64


@attrs.frozen(kw_only=True)
class StreamState:
    """A position: a group of documents that is being read, what was left before it, and rows already taken from it.

    On resume that one group is read again; nothing before it is tokenized.
    """

    epoch: int = 0
    epoch_batch: int = 0
    source: SourceState | None = None
    """Where the group starts; None is the start of the source."""
    remainder: tuple[tuple[int, ...], ...] = ()
    """Tokens left over from the documents before: fewer than a row, one tuple per document."""
    num_rows_taken: int = 0
    """Rows already cut out of remainder and group."""
    num_rows_before: int = 0
    """Rows of this epoch that came before those."""

    def to_json(self) -> dict[str, Any]:
        """Something ``json`` can write."""
        return attrs.asdict(self, recurse=False)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "StreamState":
        """The inverse of :meth:`to_json`."""
        remainder = tuple(tuple(piece) for piece in value["remainder"])
        return cls(**{**value, "remainder": remainder})


@attrs.frozen
class _Group:
    """The rows cut out of one group of documents, and how to come back to it."""

    source: SourceState | None
    remainder: tuple[tuple[int, ...], ...]
    rows: list[Row]
    num_rows_before: int


@attrs.frozen(kw_only=True, eq=False)
class StreamLoader:
    """The same steps as :class:`~dlm.data.loader.StepLoader`, from a stream in its own order.

    Every rank reads the whole stream and keeps its own rows. There is no shuffle buffer: its content cannot be
    restored, so a resumed run would lose and repeat rows; shuffle the files beforehand.
    """

    source: Source
    tokenizer: PreTrainedTokenizerBase
    text_column: str
    max_length: int = attrs.field(validator=attrs.validators.ge(1))
    collate: Collate
    shape: StepShape
    pack: bool = True
    steps_per_epoch: None = attrs.field(default=None, init=False)

    def steps(
        self, epoch: int = 0, epoch_batch: int = 0, data_state: Mapping[str, Any] | None = None
    ) -> Iterator[StepBatch]:
        """Endless steps, each with the ``data_state`` that continues behind it.

        Args:
            epoch: epoch of ``data_state``, or the epoch to begin with.
            epoch_batch: number of the step in the epoch; only 0 is possible without ``data_state``.
            data_state: what the last step that was used carried.

        Raises:
            DataError: a position without a state, an unreadable row, or a stream without text.
        """
        state = StreamState(epoch=epoch) if data_state is None else StreamState.from_json(data_state)
        if data_state is None and epoch_batch != 0:
            raise DataError(f"a stream cannot be resumed at step {epoch_batch} without its stored data_state")
        return self._steps(state)

    def _steps(self, state: StreamState) -> Iterator[StepBatch]:
        while True:
            number = state.epoch_batch
            rows = self._rows(state)
            while taken := list(itertools.islice(rows, self.shape.rows_per_step)):
                number += 1
                state_behind = attrs.evolve(taken[-1][1], epoch=state.epoch, epoch_batch=number)
                yield self._step_batch([row for row, _ in taken], state_behind)
            if number == 0:
                raise DataError(f"{self.source.name}: no text in column {self.text_column!r} of the whole stream")
            state = StreamState(epoch=state.epoch + 1)

    def _step_batch(self, rows: Sequence[Row], state: StreamState) -> StepBatch:
        step_length = max(len(row.input_ids) for row in rows)
        first = state.num_rows_before + state.num_rows_taken - len(rows)
        return StepBatch(
            epoch=state.epoch,
            epoch_batch=state.epoch_batch - 1,
            num_rows=len(rows),
            micro_batches=[
                self.collate([None if k == FILLER else rows[k] for k in indices], indices, step_length)
                for indices in self.shape.micro_steps(len(rows))
            ],
            row_ids=tuple(range(first, first + len(rows))),
            data_state=state.to_json(),
        )

    def _rows(self, state: StreamState) -> Iterator[tuple[Row, StreamState]]:
        """Rows with the position behind each, to the end of the epoch."""
        num_taken = state.num_rows_taken
        for group in self._groups(state):
            behind = StreamState(source=group.source, remainder=group.remainder, num_rows_before=group.num_rows_before)
            for number in range(num_taken, len(group.rows)):
                yield group.rows[number], attrs.evolve(behind, num_rows_taken=number + 1)
            num_taken = 0

    def _groups(self, state: StreamState) -> Iterator[_Group]:
        reader = self.source.open(state.source)
        source, remainder, num_rows = state.source, state.remainder, state.num_rows_before
        eos = eos_id_of(self.tokenizer)
        counts = TextCounts()
        while records := list(itertools.islice(reader, _DOCUMENTS_PER_GROUP)):
            texts = (text_in_column(record, self.text_column, counts) for record in records)
            encoded = encode_texts((text for text in texts if text is not None), self.tokenizer)
            documents = [*remainder, *((*ids.tolist(), eos) for ids in encoded)]
            rows, left = self._cut(documents)
            yield _Group(source, remainder, rows, num_rows)
            source, remainder, num_rows = reader.state(), left, num_rows + len(rows)
        if counts.num_skipped:
            logger.warning("%s, epoch %d: %s", self.source.name, state.epoch, counts.summary())
        if remainder:
            yield _Group(source, remainder, [_row(remainder)], num_rows)

    def _cut(self, documents: Sequence[tuple[int, ...]]) -> tuple[list[Row], tuple[tuple[int, ...], ...]]:
        """Full rows, and what is left for the next group."""
        if not self.pack:
            starts = ((document, range(0, len(document), self.max_length)) for document in documents)
            return [_row([doc[start : start + self.max_length]]) for doc, places in starts for start in places], ()
        rows: list[Row] = []
        pieces: list[tuple[int, ...]] = []
        room = self.max_length
        for document in documents:
            start = 0
            while start < len(document):
                piece = document[start : start + room]
                pieces.append(piece)
                start, room = start + len(piece), room - len(piece)
                if room == 0:
                    rows.append(_row(pieces))
                    pieces, room = [], self.max_length
        return rows, tuple(pieces)


def _row(pieces: Sequence[tuple[int, ...]]) -> Row:
    lengths = [len(piece) for piece in pieces]
    ids: NDArray[np.int32] = np.concatenate([np.asarray(piece, np.int32) for piece in pieces])
    return Row(
        input_ids=ids,
        document_id=np.repeat(np.arange(len(pieces), dtype=np.int32), lengths),
        position=np.concatenate([np.arange(length, dtype=np.int32) for length in lengths]),
        eligible=np.ones(len(ids), np.bool_),
        answer_start=np.zeros(len(ids), np.int32),
    )
