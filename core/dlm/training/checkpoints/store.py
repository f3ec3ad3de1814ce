"""The checkpoints of a run: one folder a step, the newest few and the best are kept."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import attrs

from dlm.errors import CheckpointError
from dlm.training.checkpoints.manifest import verify
from dlm.training.checkpoints.publishing import discard, flush, publish, reached, sweep

_PREFIX = "step-"
BEST = "best"


@attrs.frozen
class CheckpointStore:
    """``{output_dir}/checkpoints``."""

    folder: Path
    keep_last: int

    def path(self, step: int) -> Path:
        """Folder of the checkpoint of ``step``."""
        return self.folder / f"{_PREFIX}{step}"

    def steps(self) -> list[int]:
        """Steps that have a folder, ascending; whether they verify is another question."""
        names = (path.name.removeprefix(_PREFIX) for path in self.folder.glob(f"{_PREFIX}*") if path.is_dir())
        return sorted(int(name) for name in names if name.isdigit())

    def latest(self) -> tuple[Path | None, list[str]]:
        """The newest checkpoint that verifies, and for each newer one that does not, the reason."""
        rejected = []
        for step in reversed(self.steps()):
            try:
                verify(self.path(step))
            except CheckpointError as error:
                rejected.append(str(error))
            else:
                return self.path(step), rejected
        return None, rejected

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        """Publish the checkpoint of ``step``, in place of one that is there already (it did not verify, or is old).

        Raises:
            OSError: The disk is full or not writable; everything is as it was.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        publish(self.path(step), write, replace=True)

    def point_at_best(self, step: int | None, loss: float | None) -> None:
        """Let ``best`` name the checkpoint with the lowest evaluation loss so far; None: there is none yet."""
        pointer = self.folder / BEST
        if step == self.best_step():
            return
        if step is None:
            pointer.unlink()
            return
        hidden = pointer.with_name(f".{BEST}.new")
        hidden.write_text(json.dumps({"step": step, "loss": loss}) + "\n", encoding="utf-8")
        flush(hidden)
        reached("best written")
        hidden.replace(pointer)
        flush(self.folder)
        reached("best published")

    def best_step(self) -> int | None:
        """The step ``best`` points at."""
        try:
            return int(json.loads((self.folder / BEST).read_text(encoding="utf-8"))["step"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def rotate(self) -> None:
        """Delete all but the newest ``keep_last`` checkpoints and the best one."""
        kept = {*self.steps()[-self.keep_last :], self.best_step()}
        for step in self.steps():
            if step not in kept:
                reached("rotating")
                discard(self.path(step))

    def sweep(self) -> None:
        """Remove what an interrupted save or rotation left behind."""
        if self.folder.is_dir():
            sweep(self.folder)


def has_room_for(folder: Path, num_bytes: int) -> bool:
    """Whether the disk of ``folder`` has room for ``num_bytes`` and a fifth more."""
    return shutil.disk_usage(folder).free >= 1.2 * num_bytes
