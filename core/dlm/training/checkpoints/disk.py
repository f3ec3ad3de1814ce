"""Is the disk full? Room for a checkpoint before it is written, and each library's way to say there was none."""

import errno
import os
import re
import shutil
from pathlib import Path

_MARGIN = 1.2
_RUST_IO_ERROR = re.compile(r"\(os error (\d+)\)")


def check_room(folder: Path, num_bytes: int) -> None:
    """Look before writing whether there is room for ``num_bytes`` and a fifth more.

    Raises:
        OSError: There is not (ENOSPC).
    """
    wanted, free = int(_MARGIN * num_bytes), shutil.disk_usage(folder).free
    if free < wanted:
        raise OSError(errno.ENOSPC, f"a checkpoint needs {wanted:,} bytes, {free:,} are free", str(folder))


def disk_error(error: BaseException) -> OSError | None:
    """The error of the operating system behind an exception, or None if the exception is something else.

    safetensors and tokenizers turn it into an exception of their own that quotes its number; torch's archive writer
    raises a RuntimeError while it handles it.
    """
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OSError):
            return link
        if found := _RUST_IO_ERROR.search(str(link)):
            number = int(found[1])
            return OSError(number, os.strerror(number))
        link = link.__cause__ or link.__context__
    return None
