"""Raw records of a data set as they were found: values, and the file and line they came from."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import attrs

SourceState = dict[str, Any]
"""Where a reader stands in its source; can be written as JSON."""
Tell = Callable[[str], None]
"""Takes what a reader had to guess about a file, in a few words; the same words for the same guess."""


@attrs.frozen
class Origin:
    """Where a record came from."""

    file: str
    """Path of the file, or name of the data set."""
    index: int
    """Number of the record in that file or data set, from 0."""
    line: int | None = None
    """Line of the file, from 1, in formats that have lines."""

    def __str__(self) -> str:
        return f"{self.file}, row {self.index}" if self.line is None else f"{self.file}:{self.line}"


@attrs.frozen
class Record:
    """One row, or the reason why it could not be read."""

    origin: Origin
    values: Mapping[str, Any] = attrs.field(factory=dict)
    problem: str | None = None
    """Why there are no values; None for a row that could be read."""


class RecordReader(Iterator[Record], Protocol):
    """Reads a source from some position on."""

    def state(self) -> SourceState:
        """The position behind the last record returned: opening the source there continues with the next one."""
        ...


class Source(Protocol):
    """Something with records in a fixed order."""

    @property
    def name(self) -> str:
        """How the user called it."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What was guessed and left out, a line each; complete when all was read."""
        ...

    @property
    def files(self) -> Sequence[Path]:
        """The local files it is made of, if it is."""
        ...

    @property
    def num_records(self) -> int | None:
        """How many records there are, where that is known without reading them."""
        ...

    @property
    def identity(self) -> str:
        """What tells it from a source whose records have changed, found without reading them all."""
        ...

    def open(self, state: SourceState | None = None) -> RecordReader:
        """Read from the start, or from where a reader stood."""
        ...
