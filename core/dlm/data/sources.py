"""Load a data set by name: a built-in sample, local files, files of an installed package, or the hub."""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import attrs

from dlm.data.file_identity import identity_of_files
from dlm.data.files import PACKAGE_PREFIX, find_files, is_local, path_of
from dlm.data.hub import is_saved, load_from_disk, load_from_hub
from dlm.data.readers import READERS, format_of
from dlm.data.source_records import Origin, Record, RecordReader, Source, SourceState
from dlm.errors import DataError

_NUM_RECORDS_LOOKED_AT = 100


@attrs.frozen
class FileSource:
    """Local files of one format, one after the other."""

    name: str
    files: tuple[Path, ...]
    left_out: str = ""
    """Which files beside these are not read, in one line."""
    guesses: dict[str, list[str]] = attrs.field(factory=dict, init=False, eq=False)
    """What readers guessed, with the files where they did."""
    num_records: None = attrs.field(default=None, init=False)

    @property
    def notes(self) -> tuple[str, ...]:
        """As :attr:`Source.notes`."""
        told = (
            f"{files[0]}{f' and {len(files) - 1:,} more' if len(files) > 1 else ''}: {guess}"
            for guess, files in self.guesses.items()
        )
        return tuple(filter(None, (self.left_out, *told)))

    @property
    def identity(self) -> str:
        """Number and sizes of the files, and a digest of their names and ends."""
        return identity_of_files(self.files)

    def open(self, state: SourceState | None = None) -> RecordReader:
        """Read from the start or from ``{"file": number, "row": number}``; rows before that are not parsed."""
        return _FileReader(self.files, state or {"file": 0, "row": 0}, self._note)

    def _note(self, path: Path, guess: str) -> None:
        files = self.guesses.setdefault(guess, [])
        if str(path) not in files:
            files.append(str(path))


class _FileReader:
    def __init__(self, files: tuple[Path, ...], state: SourceState, note: Callable[[Path, str], None]) -> None:
        self._state = dict(state)
        self._note = note
        self._records = self._read(files)

    def _read(self, files: tuple[Path, ...]) -> Iterator[Record]:
        for number in range(self._state["file"], len(files)):
            start = self._state["row"] if number == self._state["file"] else 0
            path = files[number]
            for record in READERS[format_of(path)](path, start, partial(self._note, path)):
                self._state = {"file": number, "row": record.origin.index + 1}
                yield record

    def __iter__(self) -> Iterator[Record]:
        return self

    def __next__(self) -> Record:
        return next(self._records)

    def state(self) -> SourceState:
        return dict(self._state)


@attrs.frozen
class MemorySource:
    """Rows that are already there."""

    name: str
    rows: tuple[Mapping[str, object], ...]
    notes: tuple[str, ...] = attrs.field(default=(), init=False)
    files: tuple[Path, ...] = attrs.field(default=(), init=False)

    @property
    def num_records(self) -> int:
        """Number of rows."""
        return len(self.rows)

    @property
    def identity(self) -> str:
        """A digest of all rows."""
        text = json.dumps(self.rows, sort_keys=True, default=repr)
        return f"{len(self.rows):,} rows, sha256 {hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def open(self, state: SourceState | None = None) -> RecordReader:
        """Read from the start or from ``{"row": number}``."""
        return _MemoryReader(self, 0 if state is None else int(state["row"]))


class _MemoryReader:
    def __init__(self, source: MemorySource, row: int) -> None:
        self._source = source
        self._row = row

    def __iter__(self) -> Iterator[Record]:
        return self

    def __next__(self) -> Record:
        if self._row >= len(self._source.rows):
            raise StopIteration
        record = Record(Origin(self._source.name, self._row), self._source.rows[self._row])
        self._row += 1
        return record

    def state(self) -> SourceState:
        return {"row": self._row}


def _python_docs(split: str, options: str) -> tuple[Mapping[str, object], ...]:
    from pydoc_data.topics import topics

    if options:
        raise DataError(f"python-docs:{options}: this sample has no options; write python-docs")
    if split != "train":
        raise DataError(f"python-docs: this sample has only the split 'train', not {split!r}")
    return tuple({"text": topics[name]} for name in sorted(topics))


def _sums(split: str, options: str) -> tuple[Mapping[str, object], ...]:
    from dlm.data.sums import sums  # a plain run does not read it

    return sums(split, options)


SAMPLES: Mapping[str, Callable[[str, str], tuple[Mapping[str, object], ...]]] = {
    "python-docs": _python_docs,
    "sums": _sums,
}
"""Built-in data sets: always there, offline. Called with the split, and with what follows a colon in the name."""


def load_source(name: str, *, split: str = "train", streaming: bool = False) -> Source:
    """Find a data set by the name in the run file.

    Args:
        name: ``python-docs`` (the English language reference that comes with Python, one row per topic);
            ``sums`` (prompts and answers, for rewards: ``dlm.data.sums``), with options as ``sums:digits=2``;
            a file, folder or pattern (``./texts``, ``data/*.jsonl``): txt (one document per file), json, jsonl, csv or
            parquet, also compressed; a folder that the library ``datasets`` saved; ``pkg://package/path`` for files of
            an installed package; anything else is a name on the Hugging Face hub, with ``name:subset`` for a subset,
            and the only case that may reach the network. Something that exists here under that name is never looked
            for on the hub.
        split: name of the split; in folders the whole name of a file or folder.
        streaming: hub only: do not download the whole data set first. Local files are always read as they come.

    Raises:
        DataError: nothing there, not readable, or without a single row.
    """
    source: Source
    sample, _, options = name.partition(":")
    if sample in SAMPLES:
        source = MemorySource(name, SAMPLES[sample](split, options))
    elif name.startswith(PACKAGE_PREFIX) or is_local(name):
        folder = path_of(name)
        found = None if is_saved(folder) else find_files(name, split)
        source = FileSource(name, found.files, found.left_out) if found else load_from_disk(name, folder, split)
    else:
        source = load_from_hub(name, split=split, streaming=streaming)
    if next(source.open(), None) is None:
        raise DataError(f"{name}: no rows (the file is empty, or holds nothing but blank lines or a header)")
    return source


def first_records(source: Source) -> list[Record]:
    """The first records, to look at."""
    return list(itertools.islice(source.open(), _NUM_RECORDS_LOOKED_AT))


def among_the_first(records: Sequence[Record]) -> str:
    """Words behind "not found" where no more was looked at than these first records; none where they may be all."""
    return f" in the first {len(records)} rows" if len(records) == _NUM_RECORDS_LOOKED_AT else ""
