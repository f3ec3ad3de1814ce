"""Which column of a data set holds the text, and which rows are passed over because they have none."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence

import attrs

from dlm.data.source_records import Record, Source
from dlm.data.sources import among_the_first, first_records
from dlm.data.text_files import TextError, check_unicode
from dlm.errors import DataError
from dlm_plugins.suggestions import did_you_mean

logger = logging.getLogger(__name__)

PREFERRED_COLUMNS = ("text", "content", "document")


def find_text_column(source: Source, wanted: str | None = None) -> str:
    """Name of the column with the text.

    Without ``wanted``: ``text``, ``content`` or ``document``, in this order, else the only column with strings.

    Raises:
        DataError: no such column, none with text, or several; with the columns there are.
    """
    records = first_records(source)
    where = among_the_first(records)
    columns = list(dict.fromkeys(column for record in records for column in record.values))
    if wanted is not None:
        if wanted in columns:
            return wanted
        raise DataError(
            f"{source.name}: no column {wanted!r}{where}{did_you_mean(wanted, columns)} {_listing(columns, records)}"
        )
    with_text = [name for name in columns if any(isinstance(record.values.get(name), str) for record in records)]
    preferred = [name for name in PREFERRED_COLUMNS if name in with_text]
    candidates = preferred[:1] or with_text
    if len(candidates) == 1:
        return candidates[0]
    what = "which column holds the text is not clear" if candidates else f"no column holds text{where}"
    raise DataError(f"{source.name}: {what}; name one with dataset.text_column {_listing(columns, records)}")


def other_columns(source: Source, text_column: str) -> tuple[str, ...]:
    """Names of the columns that hold something, in the first rows, beside the text."""
    found = (column for record in first_records(source) for column in _filled(record))
    return tuple(column for column in dict.fromkeys(found) if column != text_column)


def _filled(record: Record) -> list[str]:
    return [column for column, value in record.values.items() if value not in (None, "")]


def _listing(columns: Sequence[str], records: Sequence[Record]) -> str:
    if not columns:
        problem = next((f" {record.origin}: {record.problem}" for record in records if record.problem), "")
        return f"(it has no columns at all;{problem})"
    kinds = []
    for column in columns:
        found = Counter(type(record.values[column]).__name__ for record in records if column in record.values)
        kinds.append(f"{column} ({', '.join(found)})")
    return f"(columns: {', '.join(kinds)})"


@attrs.define
class TextCounts:
    """What became of the rows of a source. The numbers add up to the rows read."""

    num_rows: int = 0
    num_texts: int = 0
    num_null: int = 0
    num_not_text: int = 0
    num_empty: int = 0
    first_skipped: str = ""
    """Where the first row that was passed over stood, and why."""

    @property
    def num_skipped(self) -> int:
        """Rows without a text."""
        return self.num_rows - self.num_texts

    def summary(self) -> str:
        """One line for people."""
        line = f"{self.num_texts} texts in {self.num_rows} rows"
        reasons = {
            "null": self.num_null,
            "not text": self.num_not_text,
            "empty": self.num_empty,
        }
        skipped = ", ".join(f"{number} {reason}" for reason, number in reasons.items() if number)
        return f"{line}; passed over: {skipped} (first: {self.first_skipped})" if skipped else line


def read_texts(source: Source, column: str, counts: TextCounts | None = None) -> Iterator[str]:
    """The texts of a column, in order. Rows without text are counted and reported at the end.

    Raises:
        DataError: a row that cannot be read, or not a single text.
    """
    counts = TextCounts() if counts is None else counts
    for record in source.open():
        text = text_in_column(record, column, counts)
        if text is not None:
            yield text
    report_texts(source.name, column, counts)


def report_texts(name: str, column: str, counts: TextCounts) -> None:
    """Say in a log line how many rows of a source were passed over, if any were.

    Raises:
        DataError: all of them.
    """
    if counts.num_texts == 0:
        raise DataError(f"{name}: no text left in column {column!r}: {counts.summary()}")
    if counts.num_skipped:
        logger.warning("%s: %s", name, counts.summary())


def text_in_column(record: Record, column: str, counts: TextCounts) -> str | None:
    """The text of a record, or None, and one more in the count of the reason.

    Raises:
        DataError: the record could not be read, or its text is not valid Unicode.
    """
    if record.problem is not None:
        raise DataError(f"{record.origin}: {record.problem}; correct or remove this row")
    counts.num_rows += 1
    value = record.values.get(column)
    if value is None:
        counts.num_null, reason = counts.num_null + 1, "null"
    elif not isinstance(value, str):
        counts.num_not_text, reason = counts.num_not_text + 1, f"not text but {type(value).__name__}"
    elif not value.strip():
        counts.num_empty, reason = counts.num_empty + 1, "empty"
    else:
        try:
            check_unicode(value)
        except TextError as error:
            raise DataError(f"{record.origin}: {column!r} is {error}; correct or remove this row") from error
        counts.num_texts += 1
        return value
    counts.first_skipped = counts.first_skipped or f"{record.origin}: {reason}"
    return None
