"""Files in odd encodings, with odd ends of lines, in all formats and compressions: each read right, or refused."""

import bz2
import csv
import gzip
import io
import json
import lzma
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from dlm.data.sources import load_source
from dlm.data.text_column import find_text_column, read_texts
from dlm.errors import DataError

NUM_FILES = 500
PARTS = ["words", "été, Öl", "漢字", "🎈", "\u2028", "\x85", "\x0c", "\x1d", "\n", "\r\n", "\r", '"', ";", ",", "\t"]
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "gb18030", "cp437"]
ENDS = ["\n", "\r\n", "\r"]


def zstd_in_two_frames(content: bytes) -> bytes:
    half, compress = len(content) // 2, zstandard.ZstdCompressor().compress
    return compress(content[:half]) + compress(content[half:])


COMPRESSIONS: Mapping[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstd_in_two_frames,
    ".GZ": gzip.compress,
}


def write_txt(rows: Sequence[Mapping[str, str]], end: str, draw: random.Random) -> str:
    return rows[0]["text"].replace("\n", end)


def write_jsonl(rows: Sequence[Mapping[str, str]], end: str, draw: random.Random) -> str:
    ascii_only = draw.random() < 0.3
    blank = end if draw.random() < 0.3 else ""
    return end.join(json.dumps(row, ensure_ascii=ascii_only) + blank for row in rows)


def write_json(rows: Sequence[Mapping[str, str]], end: str, draw: random.Random) -> str:
    value = rows if draw.random() < 0.5 else {"version": 1, "data": rows}
    return json.dumps(value, ensure_ascii=draw.random() < 0.3, indent=draw.choice([None, 1])).replace("\n", end)


def write_csv(rows: Sequence[Mapping[str, str]], end: str, draw: random.Random) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(
        file, ["id", "text"], delimiter=draw.choice(",;\t|"), lineterminator=end, quoting=csv.QUOTE_NONNUMERIC
    )
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


WRITERS = {".txt": write_txt, ".jsonl": write_jsonl, ".json": write_json, ".csv": write_csv}


def parquet_of(rows: Sequence[Mapping[str, str]]) -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), file)
    return file.getvalue()


def texts_in(path: Path) -> list[str] | str:
    """The texts, or the one line with which they are refused."""
    try:
        source = load_source(str(path))
        return list(read_texts(source, find_text_column(source)))
    except DataError as error:
        refusal = str(error)
    assert path.name in refusal
    assert "\n" not in refusal
    return refusal


def made_up_rows(draw: random.Random) -> list[dict[str, str]]:
    # A letter outside of ASCII in each, so that every encoding shows.
    texts = ["".join(["é", *draw.choices(PARTS, k=draw.randint(1, 8)), " end"]) for _ in range(draw.randint(2, 5))]
    return [{"id": str(number), "text": text} for number, text in enumerate(texts)]


def test_each_file_is_read_right_or_refused_in_one_line(tmp_path: Path) -> None:
    draw, num_read, reasons = random.Random(0), 0, set()
    for number in range(NUM_FILES):
        rows, compression, end = made_up_rows(draw), draw.choice(list(COMPRESSIONS)), draw.choice(ENDS)
        form = draw.choice([*WRITERS, ".parquet"])
        if form == ".parquet":
            content, is_text = parquet_of(rows), True
        else:
            text, encoding = WRITERS[form](rows, end, draw), draw.choice(["utf-8", "utf-8", *ENCODINGS])
            content = text.encode(encoding, "replace")
            is_text = content.decode("utf-8-sig", "replace") == text and (end != "\r" or form in (".txt", ".json"))
        path = tmp_path / f"{number}{form}{compression}"
        path.write_bytes(COMPRESSIONS[compression](content))
        found = texts_in(path)
        if is_text:
            expected = [row["text"] for row in rows] if form != ".txt" else [rows[0]["text"].replace("\n", end)]
            assert found == expected, path.name
            num_read += 1
        else:
            assert isinstance(found, str), (path.name, content, found)
            reasons.add(found.partition(path.name)[2].lstrip("0123456789: ")[:20])
    assert NUM_FILES / 3 < num_read < NUM_FILES * 2 / 3
    assert len(reasons) >= 4, reasons


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_damaged_files_never_end_in_a_traceback(tmp_path: Path, compression: str) -> None:
    # A cut between two frames cannot be told from an end.
    compress = zstandard.ZstdCompressor().compress if compression == ".zst" else COMPRESSIONS[compression]
    draw = random.Random(compression)
    for number in range(NUM_FILES // 10):
        rows, form = made_up_rows(draw) * 9, draw.choice([*WRITERS, ".parquet"])
        plain = parquet_of(rows) if form == ".parquet" else WRITERS[form](rows, "\n", draw).encode()
        content, place = bytearray(compress(plain)), draw.random()
        if number % 2:
            content[int(place * len(content))] ^= 1 << draw.randrange(8)
        else:
            del content[int(place * len(content)) or 1 :]
        path = tmp_path / f"{number}{form}{compression}"
        path.write_bytes(content)
        found = texts_in(path)
        if compression and number % 2 == 0:
            assert isinstance(found, str), "a file that was cut off is not taken for a whole one"
