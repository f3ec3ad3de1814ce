"""Pre-training rows: documents laid end to end and cut to length, or one document a row."""

import hashlib
from functools import cached_property

import attrs
import numpy as np
from numpy.typing import NDArray

from dlm.data.rows import Row
from dlm.data.token_store import TokenStore, offsets_of
from dlm.errors import DataError


def _whole_numbers(values: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.ascontiguousarray(values, dtype=np.int64)


@attrs.frozen(eq=False)
class TextRows:
    """N rows cut out of the chosen documents, which are thought of as lying end to end.

    Row i is the stretch from ``starts[i]`` to ``ends[i]`` of that line of T tokens. Only ids are stored (once, 4 bytes
    each); documents and positions follow from the offsets. In each row positions start again at 0, also in the
    middle of a document: a model never sees a position beyond the length of a row.
    """

    store: TokenStore
    documents: NDArray[np.int64]
    """(D,) numbers of the documents in the store."""
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    max_length: int
    pack: bool

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """(D + 1,) where each document starts on the line."""
        return offsets_of(self.document_lengths)

    @property
    def document_lengths(self) -> NDArray[np.int64]:
        """(D,) number of tokens in each document, its end-of-text token included."""
        return np.diff(self.store.offsets)[self.documents]

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """(N,) number of tokens in each row."""
        return self.ends - self.starts

    @cached_property
    def _constants(self) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.bool_]]:
        """(max_length,) each: zeros, 0 1 2 ..., and True. Rows share views of them."""
        constants = (
            np.zeros(self.max_length, np.int32),
            np.arange(self.max_length, dtype=np.int32),
            np.ones(self.max_length, np.bool_),
        )
        for array in constants:
            array.flags.writeable = False
        return constants

    @property
    def num_tokens(self) -> int:
        """Tokens in all rows, end-of-text tokens included."""
        return int(self.lengths.sum())

    @property
    def num_documents(self) -> int:
        """Documents the rows are made of."""
        return len(self.documents)

    @property
    def column_names(self) -> tuple[str, ...]:
        """None: rows of text are their ids."""
        return ()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of ids, documents, cuts and settings."""
        digest = hashlib.sha256(f"{self.store.digest} {self.max_length} {self.pack}".encode())
        for array in (self.documents, self.starts, self.ends):
            digest.update(array.tobytes())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Row:
        start, end = int(self.starts[index]), int(self.ends[index])
        zeros, count, true = self._constants
        first = int(self.offsets.searchsorted(start, side="right")) - 1
        pieces = [self._piece(first, start, end)]
        num_tokens = len(pieces[0])
        while num_tokens < end - start:
            pieces.append(self._piece(first + len(pieces), start, end))
            num_tokens += len(pieces[-1])
        is_alone = len(pieces) == 1
        lengths = [len(piece) for piece in pieces]
        return Row(
            input_ids=pieces[0] if is_alone else np.concatenate(pieces),
            document_id=zeros[:num_tokens] if is_alone else np.repeat(count[: len(pieces)], lengths),
            position=count[:num_tokens] if is_alone else np.concatenate([count[:length] for length in lengths]),
            eligible=true[:num_tokens],
            answer_start=zeros[:num_tokens],
        )

    def _piece(self, number: int, start: int, end: int) -> NDArray[np.int32]:
        """What the stretch from ``start`` to ``end`` holds of a document."""
        begin, stop = int(self.offsets[number]), int(self.offsets[number + 1])
        shift = int(self.store.offsets[self.documents[number]]) - begin
        return self.store.span(shift + max(begin, start), shift + min(stop, end))

    def select(self, rows: NDArray[np.int64]) -> "TextRows":
        """Only these rows, in this order."""
        return attrs.evolve(self, starts=self.starts[rows], ends=self.ends[rows])

    def select_documents(self, documents: NDArray[np.int64]) -> "TextRows":
        """New rows, made of these documents alone."""
        return cut_rows(self.store, self.documents[documents], max_length=self.max_length, pack=self.pack)

    def summary(self) -> str:
        """One line for people."""
        how = "packed" if self.pack else "one document a row"
        return (
            f"{self.num_documents:,} documents, {self.num_tokens:,} tokens, {len(self):,} rows of at most "
            f"{self.max_length} ({how})"
        )


def text_rows(store: TokenStore, *, max_length: int, pack: bool = True) -> TextRows:
    """Cut all documents of a store into rows; nothing is dropped, so the last row may be short.

    Args:
        store: documents that end with the end-of-text token.
        max_length: most tokens in a row, at least 1.
        pack: lay the documents end to end first; otherwise each starts a row of its own (long ones go on in the next).

    Raises:
        DataError: no documents, or ``max_length`` below 1.
    """
    num_documents = len(store.offsets) - 1
    if num_documents == 0 or store.num_tokens == 0:
        raise DataError("the data set has no documents with text, so there is nothing to train on")
    return cut_rows(store, np.arange(num_documents), max_length=max_length, pack=pack)


def cut_rows(store: TokenStore, documents: NDArray[np.int64], *, max_length: int, pack: bool) -> TextRows:
    """As :func:`text_rows`, for some of the documents."""
    if max_length < 1:
        raise DataError(f"dataset.max_length is {max_length}; it must be at least 1")
    offsets = offsets_of(np.diff(store.offsets)[documents])
    if pack:
        starts = np.arange(0, offsets[-1], max_length)
        ends = np.minimum(starts + max_length, offsets[-1])
    else:
        num_rows = -(-np.diff(offsets) // max_length)
        owner = np.repeat(np.arange(len(documents)), num_rows)
        within = np.arange(len(owner)) - np.repeat(np.cumsum(num_rows) - num_rows, num_rows)
        starts = offsets[owner] + within * max_length
        ends = np.minimum(starts + max_length, offsets[owner + 1])
    return TextRows(store, _whole_numbers(documents), _whole_numbers(starts), _whole_numbers(ends), max_length, pack)
