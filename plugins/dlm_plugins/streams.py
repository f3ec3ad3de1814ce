"""Standard output and standard error that end nothing: closed pipes, full disks, terminals that are gone, encodings.

A command or a run that works for hours must not end because a line of its own could not be printed.
"""

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO, cast

_NEVER_AGAIN = (errno.EPIPE, errno.EIO, errno.EBADF)
"""Nobody reads the pipe any more, the terminal was closed, the descriptor was: what follows is lost too."""


class SteadyStream(io.TextIOBase):
    """Writes to another text stream, and goes on where that one refuses.

    A character that the other's encoding lacks is replaced. What cannot be written at all is left out, and ``lost``
    says why. There is no ``buffer``: what goes around this stream would not be held back.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.lost: OSError | None = None
        """The last reason why something was left out."""

    @property
    def has_no_reader(self) -> bool:
        """Whether the reader of the pipe is gone, or the terminal."""
        return self.lost is not None and self.lost.errno in _NEVER_AGAIN

    @property
    def encoding(self) -> str:  # type: ignore[override]  # a plain attribute there
        """Of the other stream."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def writable(self) -> bool:
        """It is."""
        return True

    def isatty(self) -> bool:
        """Whether the other stream is a terminal that is still there."""
        return not self.has_no_reader and self._stream.isatty()

    def fileno(self) -> int:
        """Of the other stream."""
        return self._stream.fileno()

    def write(self, text: str) -> int:
        """Write what can be written; returns the length of ``text`` in any case."""
        with self._going_on():
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                self._stream.write(text.encode(self.encoding, "replace").decode(self.encoding))
        return len(text)

    def close(self) -> None:
        """Nothing: the other stream belongs to somebody else."""

    def flush(self) -> None:
        """Hand on what was written."""
        with self._going_on():
            self._stream.flush()

    @contextmanager
    def _going_on(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.lost = error
            if self.has_no_reader:
                self._let_go()

    def _let_go(self) -> None:
        """Send the rest nowhere; what still waits in the buffer would fail again when the process ends."""
        with suppress(OSError):
            descriptor, nowhere = self._stream.fileno(), os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)


@contextmanager
def steady_streams() -> Iterator[tuple[SteadyStream, SteadyStream]]:
    """Standard output and standard error as :class:`SteadyStream` for the duration; they are handed out, too."""
    before = sys.stdout, sys.stderr
    out, err = (_steady(stream or _nowhere()) for stream in before)
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, err)
    try:
        yield out, err
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before


def has_no_reader() -> bool:
    """Whether nobody is there any more for what is printed: reason to stop where printing is all there is to do."""
    return isinstance(sys.stdout, SteadyStream) and sys.stdout.has_no_reader


def _nowhere() -> TextIO:
    """For a process that was started without the stream: its next file must not be opened in that place."""
    return open(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8", closefd=False)


def _steady(stream: TextIO) -> SteadyStream:
    return cast(SteadyStream, stream) if isinstance(stream, SteadyStream) else SteadyStream(stream)
