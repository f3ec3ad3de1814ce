"""Readers of txt, JSON, JSONL and Parquet files. A row that cannot be read becomes a record with a problem."""

import codecs
import io
import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dlm.data.compression import opened, uncompressed_name
from dlm.data.csv_files import check_names, read_csv
from dlm.data.source_records import Origin, Record, Tell
from dlm.data.text_files import TextError, decode, parse_json, raw_lines, read_text
from dlm.errors import DataError

Reader = Callable[[Path, int, Tell], Iterator[Record]]
"""Takes a path, the number of records to pass over, and what is told of guesses; yields the other records."""

_PARQUET_BATCH = 1024
_COLUMNS_OF_A_ROW = frozenset(
    [
        "text",
        "content",
        "document",
        "messages",
        "conversations",
        "history",
        "prompt",
        "response",
        "completion",
        "instruction",
        "output",
    ]
)
"""An object with one of these is a row itself, whatever lists it holds."""


def read_txt(path: Path, start: int, tell: Tell) -> Iterator[Record]:
    """The whole file as one record with the column ``text``."""
    if start == 0:
        yield Record(Origin(str(path), 0), {"text": read_text(path)})


def read_jsonl(path: Path, start: int, tell: Tell) -> Iterator[Record]:
    """One object a line; blank lines are passed over. The lines before ``start`` are not parsed."""
    with opened(path) as file:
        numbered = ((number, line) for number, line in enumerate(raw_lines(file), 1) if line.strip())
        for index, (number, line) in enumerate(itertools.islice(numbered, start, None), start):
            origin = Origin(str(path), index, number)
            try:
                # Where files were put together, a byte-order mark may stand in front of any row.
                value = parse_json(decode(line.removeprefix(codecs.BOM_UTF8)))
            except TextError as error:
                yield Record(origin, problem=str(error))
                continue
            yield _record_of(value, origin)


def read_json(path: Path, start: int, tell: Tell) -> Iterator[Record]:
    """A list of objects, an object with one list of them under a key, or (tolerated) one object a line."""
    text = read_text(path)
    try:
        value = parse_json(text)
    except TextError as error:
        if "Extra data" in str(error) and text.lstrip().startswith("{"):
            yield from read_jsonl(path, start, tell)
            return
        raise DataError(f"{path}:{error.line}: {error}") from error
    if isinstance(value, dict):
        value = _rows_in(value, path, tell)
    if not isinstance(value, list):
        raise DataError(f"{path}: expected a list of objects, found {type(value).__name__}")
    for index, item in enumerate(value[start:], start):
        yield _record_of(item, Origin(str(path), index))


def read_parquet(path: Path, start: int, tell: Tell) -> Iterator[Record]:
    """Rows of a Parquet file, a batch at a time."""
    import pyarrow.parquet as parquet  # type: ignore[import-untyped]  # it ships no types
    from pyarrow.lib import ArrowException  # type: ignore[import-untyped]

    with opened(path) as content:
        # The format is read from its end, where a compressed file cannot begin.
        seekable = content if uncompressed_name(path) == path else io.BytesIO(content.read())
        try:
            with parquet.ParquetFile(seekable) as file:
                check_names(file.schema_arrow.names, path)
                index = 0
                for batch in file.iter_batches(batch_size=_PARQUET_BATCH):
                    if index + batch.num_rows > start:
                        for offset, values in enumerate(batch.to_pylist()):
                            if index + offset >= start:
                                yield Record(Origin(str(path), index + offset), values)
                    index += batch.num_rows
        except (ArrowException, ArithmeticError, OSError, ValueError) as error:
            raise DataError(f"{path}: not a readable Parquet file: {_first_line(error)}") from error


READERS: Mapping[str, Reader] = {
    ".txt": read_txt,
    ".jsonl": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".parquet": read_parquet,
}
"""Reader by suffix."""


def format_of(path: Path) -> str:
    """The suffix that tells the format of a file, compressed or not; empty if there is none."""
    return uncompressed_name(path).suffix.lower()


def _rows_in(value: Mapping[str, Any], path: Path, tell: Tell) -> list[Any]:
    """The rows that an object holds under one of its keys; itself, if it is a row."""
    nested = [key for key, item in value.items() if isinstance(item, list) and item and isinstance(item[0], dict)]
    if not nested or _COLUMNS_OF_A_ROW & value.keys():
        return [value]
    if len(nested) > 1:
        keys = ", ".join(map(repr, nested))
        raise DataError(f"{path}: lists of objects under several keys ({keys}); write each into a file of its own")
    (key,) = nested
    others = ", ".join(repr(name) for name in value if name != key)
    tell(f"the rows are those under {key!r}" + (f"; not read: {others}" if others else ""))
    rows: list[Any] = value[key]
    return rows


def _record_of(value: Any, origin: Origin) -> Record:
    if isinstance(value, dict):
        return Record(origin, value)
    return Record(origin, problem=f"expected an object, found {type(value).__name__}")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
