"""The lock on an output folder, so that two runs cannot write into it; it ends with its process."""

import json
import os
import socket
import sys
from contextlib import suppress
from pathlib import Path

from dlm.errors import UserInputError

_NAME = ".lock"


class FolderLock:
    """Held by one process at a time.

    The operating system keeps it, not the file: when the process is gone, so is the lock, and the next one takes it
    over. The file says who took it last. Forked children do not share it.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / _NAME
        self._descriptor: int | None = None

    def take(self) -> None:
        """Take the lock.

        Raises:
            UserInputError: Another process holds it.
            OSError: The file system cannot lock, or the folder is not writable.
        """
        descriptor = os.open(self._path, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            _lock(descriptor)
        except (BlockingIOError, PermissionError):
            os.close(descriptor)
            raise UserInputError(
                f"training.output_dir: {self._path.parent} is in use by {self._holder()}; wait for it, end it, or "
                "choose another folder"
            ) from None
        except BaseException:
            os.close(descriptor)
            raise
        if not self._is_current(descriptor):
            os.close(descriptor)
            self.take()  # its last holder has just deleted it
            return
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
        self._descriptor = descriptor

    def release(self) -> None:
        """Let it go, and the file with it if there is nothing else in the folder."""
        if self._descriptor is None:
            return
        if os.listdir(self._path.parent) == [_NAME]:
            with suppress(OSError):  # not every system deletes an open file
                self._path.unlink()
        else:
            os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)
        self._descriptor = None

    def _is_current(self, descriptor: int) -> bool:
        """Whether what was locked is the file of that name: otherwise two processes might each lock one."""
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self._path))
        except FileNotFoundError:
            return False

    def _holder(self) -> str:
        try:
            holder = dict(json.loads(self._path.read_text(encoding="utf-8")))
            return f"process {holder['pid']} on {holder['host']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        # A byte far behind the text, so that others can read it.
        os.lseek(descriptor, 1 << 20, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        # Not flock: children that are forked later would hold that too, and outlive a killed parent.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
