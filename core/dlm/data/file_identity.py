"""What tells local files from changed ones without reading all of them: names, sizes, digests of head and tail."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from dlm.errors import DataError

_END_BYTES = 1 << 16
"""Bytes that are read at the head and at the tail of a file."""


def identity_of_files(files: Sequence[Path]) -> str:
    """Another text once a file is added, removed, renamed, longer or shorter, or different at its head or tail.

    Only a change of some bytes in the middle of a file of more than 128 KiB goes unseen. Where the files lie does not
    matter.

    Raises:
        DataError: a file cannot be read.
    """
    top = os.path.commonpath([path.absolute().parent for path in files])
    digest, num_bytes = hashlib.sha256(), 0
    for path in files:
        try:
            size, ends = _size_and_ends(path)
        except OSError as error:
            raise DataError(f"{path}: could not be read: {error.strerror or error}") from error
        name = Path(os.path.relpath(path.absolute(), top)).as_posix()
        digest.update(f"{len(name)} {name} {size} ".encode(errors="surrogateescape") + ends)
        num_bytes += size
    what = "1 file" if len(files) == 1 else f"{len(files):,} files"
    return f"{what}, {num_bytes:,} bytes, sha256 {digest.hexdigest()[:16]}"


def _size_and_ends(path: Path) -> tuple[int, bytes]:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(_END_BYTES)
        file.seek(max(size - _END_BYTES, len(head)))
        return size, hashlib.sha256(head + file.read(_END_BYTES)).digest()
