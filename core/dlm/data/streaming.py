"""Streaming: packed rows from a data set of unknown length, shuffled in a buffer, resumable at every step."""

import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from dlm.data.batch import FILLER, StepBatch, StepShape
from dlm.data.loader import Collate, read_ahead
from dlm.data.order import epoch_order
from dlm.data.rows import Row
from dlm.data.source_records import RecordReader, Source, SourceState
from dlm.data.text_column import TextCounts, text_in_column
from dlm.data.tokenization import encode_texts, eos_id_of
from dlm.errors import DataError

logger = logging.getLogger(__name__)

_DOCUMENTS_PER_GROUP = 64

_Texts = list[str] | DataError
_Ids = list[NDArray[np.int32]] | DataError
Exchange = Callable[[object], list[Any]]
"""Takes something of this process, and gives what every process gave, in their order. All must call."""


@attrs.frozen(kw_only=True)
class StreamState:
    """A position: the window of rows that is being taken, where it starts in the source, and how much of it is taken.

    On resume that window is read again; nothing before the group of documents in which it starts is tokenized.
    """

    epoch: int = 0
    epoch_batch: int = 0
    source: SourceState | None = None
    """Where the group of documents starts in which the window does; None is the start of the source."""
    remainder: tuple[tuple[int, ...], ...] = ()
    """Tokens left over from the documents before that group: fewer than a row, one tuple per document."""
    num_rows_before: int = 0
    """Rows of this epoch that came before remainder and group."""
    num_rows_cut: int = 0
    """Rows of remainder and group that come before the window."""
    num_rows_taken: int = 0
    """Rows of the window that were taken already, in its own order."""

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
    """Documents that are tokenized together, and where the reader stood before and behind them."""

    texts: _Texts
    """Or why they cannot be read: said when it is their turn, however far ahead they were looked for."""
    before: SourceState | None
    behind: SourceState | None


@attrs.frozen
class _Place:
    """A row in the order of the stream, and how to come back to it."""

    row: Row
    position: StreamState

    @property
    def number(self) -> int:
        """In its epoch."""
        return self.position.num_rows_before + self.position.num_rows_cut


def _alone(own: object) -> list[Any]:
    return [own]


@attrs.frozen(kw_only=True, eq=False)
class StreamLoader:
    """The same steps as :class:`~dlm.data.loader.StepLoader`, from a stream.

    Every rank reads the texts, tokenizes every N-th group of documents (its worker processes ahead of the steps), and
    hands the ids to the others. The rows are shuffled within windows of ``shuffle_buffer`` rows. So the steps depend on
    seed and epoch alone, whatever the number of ranks and workers, and a position says them all.
    """

    source: Source
    tokenizer: PreTrainedTokenizerBase
    text_column: str
    max_length: int = attrs.field(validator=attrs.validators.ge(1))
    collate: Collate
    shape: StepShape
    pack: bool = True
    seed: int = 0
    shuffle_buffer: int = attrs.field(default=1, validator=attrs.validators.ge(1))
    """Rows of a window; 1: the order of the stream."""
    num_workers: int = attrs.field(default=0, validator=attrs.validators.ge(0))
    """Processes that tokenize ahead; 0: this one does, when a row is wanted. The result is the same."""
    exchange: Exchange = _alone
    """Between the ranks."""
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
            DataError: a position without a state, an unreadable row, a stream without text, or a worker that died.
        """
        state = StreamState(epoch=epoch) if data_state is None else StreamState.from_json(data_state)
        if data_state is None and epoch_batch != 0:
            raise DataError(f"a stream cannot be resumed at step {epoch_batch} without its stored data_state")
        return self._steps(state)

    def _steps(self, state: StreamState) -> Iterator[StepBatch]:
        while True:
            number = state.epoch_batch
            places = self._shuffled(state)
            while taken := list(itertools.islice(places, self.shape.rows_per_step)):
                number += 1
                state_behind = attrs.evolve(taken[-1][1], epoch=state.epoch, epoch_batch=number)
                yield self._step_batch([place for place, _ in taken], state_behind)
            if number == 0:
                raise DataError(f"{self.source.name}: no text in column {self.text_column!r} of the whole stream")
            state = StreamState(epoch=state.epoch + 1)

    def _step_batch(self, places: Sequence[_Place], state: StreamState) -> StepBatch:
        step_length = max(len(place.row.input_ids) for place in places)
        return StepBatch(
            epoch=state.epoch,
            epoch_batch=state.epoch_batch - 1,
            num_rows=len(places),
            micro_batches=[
                self.collate([None if k == FILLER else places[k].row for k in indices], indices, step_length)
                for indices in self.shape.micro_steps(len(places))
            ],
            row_ids=tuple(place.number for place in places),
            data_state=state.to_json(),
        )

    def _shuffled(self, state: StreamState) -> Iterator[tuple[_Place, StreamState]]:
        """Rows, window after window, with the position behind each, to the end of the epoch."""
        places, num_taken = self._places(state), state.num_rows_taken
        while window := list(itertools.islice(places, self.shuffle_buffer)):
            start = window[0]
            # Windows are as unrelated as epochs of different seeds.
            seed = self.seed + (start.number // self.shuffle_buffer << 32)
            order = epoch_order(num_rows=len(window), seed=seed, epoch=state.epoch)
            for number in range(num_taken, len(window)):
                yield window[order[number]], attrs.evolve(start.position, num_rows_taken=number + 1)
            num_taken = 0

    def _places(self, state: StreamState) -> Iterator[_Place]:
        """Rows in the order of the stream, from the start of a window on."""
        num_cut, remainder, num_rows = state.num_rows_cut, state.remainder, state.num_rows_before
        source, eos = state.source, eos_id_of(self.tokenizer)
        groups, ahead = itertools.tee(self._groups(state))
        for group, encoded in zip(groups, self._tokenized(ahead), strict=True):
            documents = [*remainder, *((*ids.tolist(), eos) for ids in encoded)]
            position = StreamState(source=group.before, remainder=remainder, num_rows_before=num_rows)
            rows, remainder = self._cut(documents)
            for number in range(num_cut, len(rows)):
                yield _Place(rows[number], attrs.evolve(position, num_rows_cut=number))
            num_cut, num_rows, source = 0, num_rows + len(rows), group.behind
        if remainder:
            yield _Place(_row(remainder), StreamState(source=source, remainder=remainder, num_rows_before=num_rows))

    def _groups(self, state: StreamState) -> Iterator[_Group]:
        """The documents from a position to the end of the epoch."""
        reader, before, counts = self.source.open(state.source), state.source, TextCounts()
        while group := self._group(reader, before, counts):
            yield group
            if isinstance(group.texts, DataError):
                return
            before = group.behind
        if counts.num_skipped:
            logger.warning("%s, epoch %d: %s", self.source.name, state.epoch, counts.summary())

    def _group(self, reader: RecordReader, before: SourceState | None, counts: TextCounts) -> _Group | None:
        """The next documents; None where there are none."""
        try:
            records = list(itertools.islice(reader, _DOCUMENTS_PER_GROUP))
            texts = [text_in_column(record, self.text_column, counts) for record in records]
        except DataError as error:
            return _Group(error, before, before)
        return _Group([text for text in texts if text is not None], before, reader.state()) if records else None

    def _tokenized(self, groups: Iterator[_Group]) -> Iterator[list[NDArray[np.int32]]]:
        """The ids of each document of each group: each rank makes those of its share, and gets those of all."""
        own = itertools.islice((group.texts for group in groups), self.shape.rank, None, self.shape.world_size)
        encoded = read_ahead(_GroupTokenizer(self.tokenizer), own, self.num_workers)
        # The first rank is the last one to run out.
        while (parts := self.exchange(_next(encoded)))[0] is not None:
            for ids in parts:
                if isinstance(ids, DataError):
                    raise ids  # on every rank: the others would wait for the one that cannot go on
                if ids is not None:
                    yield ids

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


class _GroupTokenizer(Dataset[_Ids]):
    """A map from the texts of a group to their ids, or to what is wrong with them, as worker processes need it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    def __getitem__(self, texts: _Texts) -> _Ids:
        if isinstance(texts, DataError):
            return texts
        try:
            return list(encode_texts(texts, self._tokenizer))
        except DataError as error:
            return error


def _next(encoded: Iterator[_Ids]) -> _Ids | None:
    """What comes next; None at the end."""
    try:
        return next(encoded, None)
    except DataError as error:  # a worker died
        return error


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
