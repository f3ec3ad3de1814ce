"""The output folder of a run: its logs (``metrics.jsonl``, samples, timings), its lock, its checkpoints."""

import json
import math
import os
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from dlm.errors import UserInputError
from dlm.training.checkpoints.publishing import flush, reached, sweep

_NAME = ".lock"


def this_process() -> str:
    """How it is called where it holds a folder."""
    return f"process {os.getpid()} on {socket.gethostname()}"


class FolderLock:
    """Held by one process at a time.

    The operating system keeps it, not the file: when the process is gone, so is the lock, and the next one takes it
    over. The file says who took it last. Forked children do not share it. The process that holds it must not open the
    file again: POSIX takes a lock away when its process closes any descriptor of the file.
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
                f"training.output_dir: {self._path.parent} is in use by {self.holder() or 'another process'}; wait for "
                "it, end it, or choose another folder"
            ) from None
        except BaseException:
            os.close(descriptor)
            raise
        if not self._is_current(descriptor):
            os.close(descriptor)
            self.take()  # its last holder has just deleted it
            return
        try:
            os.ftruncate(descriptor, 0)
            os.write(descriptor, this_process().encode())
            os.fsync(descriptor)  # other hosts are to read it now
        except OSError:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def release(self) -> None:
        """Let it go, and the file with it if there is nothing else in the folder."""
        if self._descriptor is None:
            return
        # Not every system deletes an open file, and the folder itself may be gone: neither is what ended the run.
        with suppress(OSError):
            if os.listdir(self._path.parent) == [_NAME]:
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

    def holder(self) -> str | None:
        """Who took it last, as far as can be read. Not to be asked by who holds it: see above."""
        try:
            return self._path.read_text(encoding="utf-8") or None
        except (OSError, ValueError):
            return None


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


METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"
BAD_BATCHES = "bad_batches.jsonl"
TIMINGS = "timings.jsonl"
CONFIG = "config.yaml"
BAD_ROWS = "bad_rows.jsonl"
REPORT_JSON, REPORT_PAGE = "report.json", "report.html"
PROMISED = (METRICS, SAMPLES, BAD_BATCHES)
"""Logs that are byte for byte the same whether or not the run was interrupted."""


class OutputFolder:
    """Append-only logs in one folder, held by one run at a time. Use it as a context manager on the main process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.final = path / "final"
        self._lock = FolderLock(path)
        self._created: list[Path] = []

    def __enter__(self) -> "OutputFolder":
        """Create the folder, lock it, and remove what an interrupted run left half written.

        Raises:
            UserInputError: Another process holds the folder, or it cannot be written.
        """
        try:
            self._created = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.take()
            sweep(self.path)
            sweep(self.checkpoints)
        except OSError as error:
            raise UserInputError(f"training.output_dir: cannot use {self.path} ({error.strerror})") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Unlock the folder; a run that wrote nothing leaves no folder either."""
        self._lock.release()
        with suppress(OSError):  # the first that holds something ends it
            for folder in self._created:
                folder.rmdir()

    def holder(self) -> str | None:
        """Which other process holds the folder, as it is seen from this host; None: none, or there is no folder."""
        return self._lock.holder()

    @contextmanager
    def made_ready(self) -> Iterator[None]:
        """Around what brings the folder to where a run starts.

        Raises:
            UserInputError: The system refuses something: a full disk, checkpoints that lie on another one.
        """
        try:
            yield
        except OSError as error:
            raise UserInputError(
                f"training.output_dir: cannot make {self.path} ready ({error}); see that there is room and that all of "
                "the folder lies on one file system, or choose another folder"
            ) from None

    def append(self, name: str, record: Mapping[str, object]) -> None:
        """Add one line to a log; numbers that are not finite become null. It reaches the disk with the next checkpoint.

        Raises:
            OSError: The disk is full or not writable.
        """
        line = json.dumps(strict_json(record), ensure_ascii=False, allow_nan=False) + "\n"
        with (self.path / name).open("ab") as file:
            file.write(line.encode())
        reached("line appended")

    def read(self, name: str) -> list[object]:
        """The lines of a log, null for one that is damaged; none where the log does not exist."""
        file = self.path / name
        return [_parsed(line) for line in file.read_bytes().splitlines()] if file.exists() else []

    def sizes(self) -> dict[str, int]:
        """The sizes of the promised logs, as far as they are there."""
        return {file.name: file.stat().st_size for file in self._promised()}

    def flush(self) -> None:
        """Make the promised logs durable."""
        for file in self._promised():
            flush(file)

    def _promised(self) -> list[Path]:
        return [self.path / name for name in PROMISED if (self.path / name).exists()]

    def cut_back(self, sizes: Mapping[str, int]) -> None:
        """Cut the promised logs back to the given sizes; one without a size is emptied."""
        for file in (self.path / name for name in PROMISED):
            if file.exists():
                os.truncate(file, sizes.get(file.name, 0))
        reached("logs cut back")

    def what_is_gone(self, sizes: Mapping[str, int]) -> str | None:
        """Which of the promised logs is shorter than the given size, so that it cannot be cut back to it."""
        for name, size in sizes.items():
            file = self.path / name
            present = file.stat().st_size if file.exists() else 0
            if present < size:
                return f"{file} had {size:,} bytes when it was saved, and has {present:,}: its end is gone"
        return None

    def contents(self) -> list[Path]:
        """Everything a run leaves in its folder, as far as it is there; the checkpoints first."""
        names = (self.checkpoints.name, self.final.name, *PROMISED, TIMINGS, CONFIG, BAD_ROWS, REPORT_JSON, REPORT_PAGE)
        return [self.path / name for name in names if (self.path / name).exists()]

    def set_aside(self, paths: Iterable[Path]) -> Path:
        """Move files and folders of an earlier run into a folder of their own, and return that folder."""
        number = 1
        while (aside := self.path / f"previous-{number}").exists():
            number += 1
        for path in paths:
            target = aside / path.relative_to(self.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
            reached("set aside")
        return aside


def _parsed(line: bytes) -> object:
    with suppress(ValueError):
        return json.loads(line)
    return None


def strict_json(value: object) -> object:
    """A value with null for numbers that are not finite, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: strict_json(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict_json(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
