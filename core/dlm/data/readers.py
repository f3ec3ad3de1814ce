"""Readers of local files, one per format. A row that cannot be read becomes a record with a problem."""

import csv
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dlm.data.records import Origin, Record
from dlm.errors import DataError

Reader = Callable[[Path, int], Iterator[Record]]
"""Takes a path and the number of records to pass over; yields the others."""

_PARQUET_BATCH = 1024


def read_txt(path: Path, start: int = 0) -> Iterator[Record]:
    """The whole file as one record with the column ``text``."""
    if start == 0:
        yield Record(Origin(str(path), 0), {"text": _decode(path.read_bytes(), path)})


def read_jsonl(path: Path, start: int = 0) -> Iterator[Record]:
    """One object a line; blank lines are passed over. The lines before ``start`` are not parsed."""
    with path.open("rb") as file:
        numbered = ((number, line) for number, line in enumerate(file, 1) if line.strip())
        for index, (number, line) in enumerate(itertools.islice(numbered, start, None), start):
            origin = Origin(str(path), index, number)
            try:
                # The byte-order mark some editors put in front is not part of the first row.
                value = json.loads(line.removeprefix(b"\xef\xbb\xbf"))
            except (ValueError, RecursionError) as error:
                yield Record(origin, problem=f"not valid JSON: {error}")
                continue
            yield _record_of(value, origin)


def read_json(path: Path, start: int = 0) -> Iterator[Record]:
    """A list of objects, one object with a single list of them, or (tolerated) one object a line."""
    text = _decode(path.read_bytes(), path)
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise DataError(f"{path}: nested too deeply to be read as JSON") from error
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text.lstrip().startswith("{"):
            yield from read_jsonl(path, start)
            return
        raise DataError(f"{path}:{error.lineno}: not valid JSON: {error.msg} (column {error.colno})") from error
    if isinstance(value, dict):
        lists = [item for item in value.values() if isinstance(item, list) and item and isinstance(item[0], dict)]
        value = lists[0] if len(lists) == 1 and len(value) == 1 else [value]
    if not isinstance(value, list):
        raise DataError(f"{path}: expected a list of objects, found {type(value).__name__}")
    for index, item in enumerate(value[start:], start):
        yield _record_of(item, Origin(str(path), index))


def read_csv(path: Path, start: int = 0) -> Iterator[Record]:
    """Comma-separated values with a header; quoted fields may contain line breaks."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = next(filter(None, reader), [])
            index, line = 0, reader.line_num + 1
            for fields in reader:
                if fields:  # a blank line is no row
                    if index >= start:
                        yield _csv_record(header, fields, Origin(str(path), index, line))
                    index += 1
                line = reader.line_num + 1
        except csv.Error as error:
            raise DataError(f"{path}:{reader.line_num}: not valid CSV: {error}") from error
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: behind line {reader.line_num}: not UTF-8 ({error.reason})") from error


def read_parquet(path: Path, start: int = 0) -> Iterator[Record]:
    """Rows of a Parquet file, a batch at a time."""
    import pyarrow.parquet as parquet  # type: ignore[import-untyped]  # it ships no types
    from pyarrow.lib import ArrowException  # type: ignore[import-untyped]

    try:
        with parquet.ParquetFile(path) as file:
            index = 0
            for batch in file.iter_batches(batch_size=_PARQUET_BATCH):
                if index + batch.num_rows > start:
                    for offset, values in enumerate(batch.to_pylist()):
                        if index + offset >= start:
                            yield Record(Origin(str(path), index + offset), values)
                index += batch.num_rows
    except ArrowException as error:
        raise DataError(f"{path}: not a readable Parquet file: {_first_line(error)}") from error


READERS: Mapping[str, Reader] = {
    ".txt": read_txt,
    ".jsonl": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".parquet": read_parquet,
}
"""Reader by suffix."""


def _record_of(value: Any, origin: Origin) -> Record:
    if isinstance(value, dict):
        return Record(origin, value)
    return Record(origin, problem=f"expected an object, found {type(value).__name__}")


def _csv_record(header: list[str], fields: list[str], origin: Origin) -> Record:
    if len(fields) != len(header):
        return Record(origin, problem=f"{len(fields)} fields, but the header has {len(header)}")
    return Record(origin, dict(zip(header, fields, strict=True)))


def _decode(content: bytes, path: Path) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: not UTF-8 (byte {error.start}: {error.reason})") from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
