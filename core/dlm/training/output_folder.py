"""The output folder of a run: its logs, its lock, its checkpoints."""

import json
import os
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType

import psutil

from dlm.errors import DataError, UserInputError
from dlm.training.checkpoints.publishing import flush, reached

METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"
BAD_BATCHES = "bad_batches.jsonl"
TIMINGS = "timings.jsonl"
CONFIG = "config.yaml"
BAD_ROWS = "bad_rows.jsonl"
PROMISED = (METRICS, SAMPLES, BAD_BATCHES)
"""Logs that are byte for byte the same whether or not the run was interrupted."""
_LOCK = ".lock"


class OutputFolder:
    """Append-only logs in one folder, held by one run at a time. Use it as a context manager on the main process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.final = path / "final"

    def __enter__(self) -> "OutputFolder":
        """Create the folder and lock it.

        Raises:
            UserInputError: Another live process holds the folder, or it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock()
        except OSError as error:
            raise UserInputError(f"training.output_dir: cannot write to {self.path} ({error.strerror})") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Unlock the folder."""
        (self.path / _LOCK).unlink(missing_ok=True)

    def append(self, name: str, record: Mapping[str, object]) -> None:
        """Add one line to a log. It reaches the disk with the next checkpoint."""
        line = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
        with (self.path / name).open("ab") as file:
            file.write(line.encode())
        reached("line appended")

    def read(self, name: str) -> list[dict[str, object]]:
        """The lines of a log; none where it does not exist."""
        file = self.path / name
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []

    def flush(self) -> dict[str, int]:
        """Make the promised logs durable; return their sizes."""
        present = [self.path / name for name in PROMISED if (self.path / name).exists()]
        for file in present:
            flush(file)
        return {file.name: file.stat().st_size for file in present}

    def cut_back(self, sizes: Mapping[str, int]) -> None:
        """Cut the promised logs back to the given sizes; one without a size is emptied."""
        for name in PROMISED:
            file = self.path / name
            size = sizes.get(name, 0)
            if (file.stat().st_size if file.exists() else 0) < size:
                raise DataError(
                    f"{file}: shorter than when the checkpoint was saved, so its beginning is gone; "
                    "put it back, or set training.checkpoint.resume=none to start anew"
                )
            if file.exists():
                os.truncate(file, size)
        reached("logs cut back")

    def contents(self) -> list[Path]:
        """Everything a run leaves in its folder, as far as it is there."""
        names = (*PROMISED, TIMINGS, CONFIG, BAD_ROWS, self.checkpoints.name, self.final.name)
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
        return aside

    def _lock(self) -> None:
        lock, pid = self.path / _LOCK, os.getpid()
        me = {"pid": pid, "host": socket.gethostname(), "started": _started(pid)}
        try:
            descriptor = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            if holder := _live_holder(lock):
                raise UserInputError(
                    f"training.output_dir: {self.path} is in use by process {holder['pid']} on {holder['host']}; wait "
                    f"for it, choose another folder, or delete {lock} if that process no longer runs"
                ) from None
            lock.unlink(missing_ok=True)
            self._lock()
            return
        with os.fdopen(descriptor, "w") as file:
            json.dump(me, file)


def _live_holder(lock: Path) -> dict[str, object] | None:
    """Who holds the lock, unless that process is known to be dead."""
    try:
        holder = dict(json.loads(lock.read_text(encoding="utf-8")))
        pid, host = int(holder["pid"]), holder["host"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # torn: its writer died while it took the lock
    if host == socket.gethostname() and (pid == os.getpid() or _started(pid) != holder.get("started")):
        return None
    return holder


def _started(pid: int) -> float | None:
    """When a process started, which tells it from a later one with its number; None if there is none."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return None
