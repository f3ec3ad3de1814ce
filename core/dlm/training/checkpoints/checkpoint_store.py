"""Which checkpoints of a run are kept: one folder a step, the newest few and the best (lowest evaluation loss)."""

import json
from collections.abc import Callable
from pathlib import Path

import attrs

from dlm.errors import CheckpointError
from dlm.training.checkpoints.disk import check_room
from dlm.training.checkpoints.manifest import NewFolder, verify
from dlm.training.checkpoints.publishing import discard, publish, reached, sweep, write_file

_PREFIX = "step-"
BEST = "best"


@attrs.frozen
class CheckpointStore:
    """``{output_dir}/checkpoints``."""

    folder: Path
    keep_last: int
    pinned: Path | None = None
    """A checkpoint that rotation leaves alone, because the run file names it as the one to start from."""

    def path(self, step: int) -> Path:
        """Folder of the checkpoint of ``step``."""
        return self.folder / f"{_PREFIX}{step}"

    def steps(self) -> list[int]:
        """Steps that have a folder, ascending; whether they verify is another question."""
        names = (path.name.removeprefix(_PREFIX) for path in self.folder.glob(f"{_PREFIX}*") if path.is_dir())
        return sorted(int(name) for name in names if name.isdigit())

    def latest(self, check: Callable[[Path], None] = verify) -> tuple[Path | None, list[str]]:
        """The newest checkpoint that passes the check, and for each newer one that does not, the reason.

        Args:
            check: raises a CheckpointError with the reason; by default it compares the files with the manifest.
        """
        rejected = []
        for step in reversed(self.steps()):
            try:
                check(self.path(step))
            except CheckpointError as error:
                rejected.append(str(error))
            else:
                return self.path(step), rejected
        return None, rejected

    def save(self, step: int, write: Callable[[NewFolder], None], num_bytes: int) -> None:
        """Publish the checkpoint of ``step``, unless it is there already: a step is saved once.

        Args:
            step: number of the step.
            write: writes the files into an empty folder.
            num_bytes: about how much that is.

        Raises:
            OSError: The disk is full or not writable; everything is as it was.
        """
        if self.path(step).is_dir():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        check_room(self.folder, num_bytes)
        publish(self.path(step), write)

    def point_at_best(self, step: int | None, loss: float | None) -> None:
        """Let ``best`` name the checkpoint with the lowest evaluation loss so far.

        Raises:
            OSError: The pointer cannot be written; it is as it was.
        """
        if step is None or not self.path(step).is_dir():
            (self.folder / BEST).unlink(missing_ok=True)
        elif step != self.best_step():
            write_file(self.folder / BEST, json.dumps({"step": step, "loss": loss}) + "\n")

    def best_step(self) -> int | None:
        """The step ``best`` points at."""
        try:
            return int(json.loads((self.folder / BEST).read_text(encoding="utf-8"))["step"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def rotate(self) -> None:
        """Delete all but the newest ``keep_last`` checkpoints, the best and the pinned one.

        Raises:
            OSError: A folder cannot be renamed.
        """
        kept = {self.path(step) for step in self.steps()[-self.keep_last :]}
        kept |= {self.path(step) for step in (self.best_step(),) if step is not None}
        if self.pinned is not None:
            kept |= {path for path in map(self.path, self.steps()) if path.resolve() == self.pinned.resolve()}
        for path in map(self.path, self.steps()):
            if path not in kept:
                reached("rotating")
                discard(path)

    def sweep(self) -> None:
        """Remove what an interrupted save or rotation left behind. The caller holds the output folder."""
        sweep(self.folder)
