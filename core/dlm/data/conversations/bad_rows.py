"""Rows of a data set that cannot be used: refused or skipped, and listed with place and reason."""

import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import attrs

from dlm.data.source_records import Origin
from dlm.errors import DataError

_NUM_SHOWN = 5


@attrs.frozen
class BadRow:
    """A row, or one answer of it, that was not used."""

    origin: Origin
    reason: str

    def __str__(self) -> str:
        return f"{self.origin}: {self.reason}"


def in_order(*groups: Iterable[BadRow]) -> tuple[BadRow, ...]:
    """All of them, by file and row."""
    return tuple(sorted(itertools.chain(*groups), key=lambda bad: (bad.origin.file, bad.origin.index)))


def write_bad_rows(bad_rows: Iterable[BadRow], path: Path) -> None:
    """One JSON object a line: file, row (from 0), line (from 1, or null), reason."""
    with path.open("w", encoding="utf-8") as file:
        for bad in bad_rows:
            origin = bad.origin
            entry = {"file": origin.file, "row": origin.index, "line": origin.line, "reason": bad.reason}
            file.write(json.dumps(entry) + "\n")


def refuse(bad_rows: Sequence[BadRow], way_out: str) -> None:
    """Raise an error that shows the first few, if there are any.

    Raises:
        DataError: there are some.
    """
    if not bad_rows:
        return
    shown = [str(bad) for bad in bad_rows[:_NUM_SHOWN]]
    more = [f"and {len(bad_rows) - _NUM_SHOWN} more"] if len(bad_rows) > _NUM_SHOWN else []
    listing = "\n  ".join([*shown, *more])
    number = "1 row" if len(bad_rows) == 1 else f"{len(bad_rows)} rows"
    raise DataError(f"{number} cannot be used:\n  {listing}\n{way_out}")
