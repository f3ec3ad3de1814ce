"""Files as they are or compressed: `.gz`, `.bz2`, `.xz` and `.zst` (Zstandard), told by the end of the name."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from dlm.errors import DataError

_CHUNK_BYTES = 1 << 14
_LARGEST_WINDOW = 1 << 31
"""What ``zstd --ultra --long=31`` may need; the library refuses more than 128 MiB by itself."""


class _ZstdFile(io.RawIOBase):
    """Frames one after the other. The library's own reader takes a file that was cut off for one that is whole."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._frame: Any = None
        self._compressed = b""
        self._plain = memoryview(b"")

    def readable(self) -> bool:
        """It is."""
        return True

    def close(self) -> None:
        """Close the file itself."""
        self._file.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; 0 at the end.

        Raises:
            EOFError: the last frame is not whole.
            OSError: no frame.
        """
        while not self._plain:
            self._compressed = self._compressed or self._file.read(_CHUNK_BYTES)
            if not self._compressed:
                if self._frame is not None:
                    raise EOFError("it ends in the middle of the compressed data")
                return 0
            self._decompress()
        size = min(len(buffer), len(self._plain))
        buffer[:size], self._plain = self._plain[:size], self._plain[size:]
        return size

    def _decompress(self) -> None:
        import zstandard

        try:
            self._frame = self._frame or zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW).decompressobj()
            self._plain = memoryview(self._frame.decompress(self._compressed))
        except zstandard.ZstdError as error:
            raise OSError(str(error)) from error
        self._compressed = b""
        if self._frame.eof:
            self._compressed, self._frame = self._frame.unused_data, None


_OPENERS: Mapping[str, Callable[[Path], Any]] = {
    ".gz": gzip.GzipFile,
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
    ".zst": lambda path: io.BufferedReader(_ZstdFile(path)),
}
COMPRESSIONS = tuple(_OPENERS)
"""Ends of the names of compressed files."""


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """What a file holds, decompressed.

    Raises:
        DataError: it cannot be read, is damaged, or ends too early.
    """
    suffix = path.suffix.lower()
    try:
        with _OPENERS[suffix](path) if suffix in _OPENERS else path.open("rb") as file:
            yield file
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        what = f"not a whole {suffix} file" if suffix in _OPENERS else "cannot be read"
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0] or type(error).__name__
        raise DataError(f"{path}: {what}: {reason}") from error


def uncompressed_name(path: Path) -> Path:
    """The name without the end that tells the compression."""
    return path.with_suffix("") if path.suffix.lower() in _OPENERS else path
