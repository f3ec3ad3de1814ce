"""CSV files: the character that separates columns is read off the header, and one column that cannot be is refused."""

import csv
import itertools
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from dlm.data.compression import opened
from dlm.data.source_records import Origin, Record, Tell
from dlm.data.text_files import TextError, decode, raw_lines
from dlm.errors import DataError

_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_LOOKED_AT = 50
_PLAIN_NAME = re.compile(r"\w+([ ./-]\w+){0,3}")
"""What the name of an only column looks like. Anything else may be several columns, or a first row without a header."""


def read_csv(path: Path, start: int, tell: Tell) -> Iterator[Record]:
    """Values with a header; quoted fields may contain line breaks, and may be of any length."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    with opened(path) as file:
        lines = _texts(raw_lines(file), path)
        first = list(itertools.islice(lines, _LOOKED_AT))
        delimiter = _delimiter(first)
        reader = csv.reader(itertools.chain(first, lines), delimiter=delimiter, strict=True)
        try:
            header = next(filter(None, reader), [])
            _check_header(header, path)
            if delimiter != ",":
                tell(f"columns are separated by {_DELIMITERS[delimiter]}")
            index, line = 0, reader.line_num + 1
            for fields in reader:
                if fields:  # a blank line is no row
                    if index >= start:
                        yield _record(header, fields, Origin(str(path), index, line))
                    index += 1
                line = reader.line_num + 1
        except csv.Error as error:
            raise DataError(f"{path}:{reader.line_num}: not valid CSV: {_reason(error)}") from error


def _texts(lines: Iterable[bytes], path: Path) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        try:
            yield decode(line)
        except TextError as error:
            raise DataError(f"{path}:{number}: {error}") from error


def _delimiter(lines: Sequence[str]) -> str:
    """The one by which the most of the first rows have as many fields, two at least, as the header; else a comma."""

    def merit(delimiter: str) -> float:
        rows: list[list[str]] = []
        try:
            rows += filter(None, csv.reader(lines, delimiter=delimiter))
        except csv.Error:
            rows += [[], []]
        width = len(rows[0]) if rows else 0
        # The last row may go on beyond what is looked at.
        fitting = [len(row) == width for row in rows[1:-1] or rows[1:]]
        return 0.0 if width < 2 else sum(fitting, 0.5) / (len(fitting) + 0.5)

    return max(_DELIMITERS, key=merit)  # the first of equals: commas


def _check_header(header: Sequence[str], path: Path) -> None:
    if len(header) == 1 and not _PLAIN_NAME.fullmatch(header[0].strip()):
        known = ", ".join(_DELIMITERS.values())
        raise DataError(
            f"{path}: a single column, {header[0][:40]!r}: either the header is missing, or columns are separated by "
            f"something else than {known}"
        )
    check_names(header, path)


def check_names(header: Sequence[str], path: Path) -> None:
    """Refuse columns of which a row could hold only the last.

    Raises:
        DataError: two have the same name.
    """
    twice = next((name for name in header if name and header.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path}: several columns are called {twice!r}; give each a name of its own")


def _record(header: Sequence[str], fields: Sequence[str], origin: Origin) -> Record:
    if len(fields) != len(header):
        return Record(origin, problem=f"{len(fields)} fields, but the header has {len(header)}")
    return Record(origin, dict(zip(header, fields, strict=True)))


def _reason(error: csv.Error) -> str:
    # The library's own words end in a question about a parameter of Python's.
    return "a carriage return outside of quotes; lines end at \\n or \\r\\n" if "new-line" in str(error) else str(error)
