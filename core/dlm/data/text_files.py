"""Text that a user hands over: UTF-8, with or without byte-order mark; lines end at `\\n` or `\\r\\n`, nowhere else."""

import codecs
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dlm.data.compression import opened
from dlm.errors import DataError

_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class TextError(ValueError):
    """Bytes that are no text, or text that is not what it should be; the message is the reason, in one line."""

    def __init__(self, reason: str, line: int = 1) -> None:
        super().__init__(reason)
        self.line = line
        """Line of the content that was looked at, from 1."""


def read_text(path: Path) -> str:
    """The whole of a file, line ends as they are.

    Raises:
        DataError: it cannot be read, or is not UTF-8, with the line.
    """
    with opened(path) as file:
        content = file.read()
    try:
        return decode(content.removeprefix(codecs.BOM_UTF8))
    except TextError as error:
        raise DataError(f"{path}:{error.line}: {error}") from error


def raw_lines(file: Iterable[bytes]) -> Iterator[bytes]:
    """Lines with their ends, the first without a byte-order mark.

    Args:
        file: opened for reading bytes, so that it is split at ``\\n`` alone: Unicode knows ten other ends of a line,
            and texts hold all of them.
    """
    for number, line in enumerate(file):
        yield line if number else line.removeprefix(codecs.BOM_UTF8)


def numbered_lines(file: Iterable[bytes], name: str) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, without their ends, each with its number from 1.

    Raises:
        DataError: one that is not UTF-8; ``name`` says where.
    """
    for number, line in enumerate(raw_lines(file), 1):
        if line.strip():
            try:
                text = decode(line)
            except TextError as error:
                raise DataError(f"{name}:{number}: {error}") from error
            yield number, text.removesuffix("\n").removesuffix("\r") if text.endswith("\n") else text


def decode(content: bytes) -> str:
    """The text that bytes in UTF-8 stand for.

    Raises:
        TextError: they are something else.
    """
    if content.startswith(_UTF16_MARKS):
        raise TextError("not UTF-8 but UTF-16; save it as UTF-8")
    nul = content.find(b"\0")
    if nul >= 0:
        raise TextError("not text (it holds NUL bytes), or not in UTF-8; save it as UTF-8", _line_of(content, nul))
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        place = f"byte {error.start}: {error.reason}"
        raise TextError(f"not UTF-8 ({place}); save it as UTF-8", _line_of(content, error.start)) from error


def parse_json(text: str) -> Any:
    """The value that JSON stands for.

    Raises:
        TextError: it is not JSON, or goes beyond what can be read.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        # Where more was expected at the end: behind the last character, not in the empty line after it.
        at = json.JSONDecodeError(error.msg, text, min(error.pos, len(text.rstrip())))
        raise TextError(f"not valid JSON: {at.msg} (column {at.colno})", at.lineno) from error
    except RecursionError as error:
        raise TextError("not readable as JSON: nested too deeply") from error
    except ValueError as error:
        raise TextError(f"not readable as JSON: {str(error).partition(';')[0]}") from error


def check_unicode(text: str) -> str:
    """The text itself, if it can be encoded: JSON, YAML and the command line let halves of characters through.

    Raises:
        TextError: it holds a lone surrogate.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TextError(
            f"not valid Unicode: a lone surrogate (\\u{ord(text[error.start]):04x}) at character {error.start + 1}"
        ) from error
    return text


def _line_of(content: bytes, position: int) -> int:
    return content.count(b"\n", 0, position) + 1
