"""Where a run continues."""

from collections.abc import Collection
from pathlib import Path

import attrs

from dlm.errors import UserInputError
from dlm.training.checkpoints.manifest import verify
from dlm.training.checkpoints.store import CheckpointStore
from dlm.training.identity import compare
from dlm.training.job import Job
from dlm.training.state import TrainerState

LATEST = "latest"
ANEW = "none"


@attrs.frozen(kw_only=True)
class StartingPoint:
    """The checkpoint to restore, or none."""

    checkpoint: Path | None
    starts_anew: bool
    """Whether what the folder holds of an earlier run is to be set aside."""
    is_explicit: bool = False
    """Whether the user named the checkpoint."""
    notes: tuple[str, ...] = ()


def starting_point(store: CheckpointStore, resume: str | None) -> StartingPoint:
    """Decide where to start, before anything heavy is loaded.

    Args:
        store: checkpoints of the output folder.
        resume: ``latest``, ``none``, the path of a checkpoint, or None: not said.

    Raises:
        UserInputError: Not said although there are checkpoints, or the path does not exist.
        CheckpointError: The checkpoint at the path does not verify, or none of the folder's does.
    """
    steps = store.steps()
    if resume is None:
        if steps:
            raise UserInputError(
                f"training.output_dir: {store.folder.parent} already holds checkpoints, up to step {steps[-1]}. "
                "Continue with training.checkpoint.resume=latest, start anew with resume=none (the old run "
                "is kept in a folder previous-N), or choose another training.output_dir"
            )
        return StartingPoint(checkpoint=None, starts_anew=False)
    if resume == ANEW:
        return StartingPoint(checkpoint=None, starts_anew=bool(steps))
    if resume == LATEST:
        checkpoint, rejected = store.latest()
        return StartingPoint(
            checkpoint=checkpoint, starts_anew=False, notes=tuple(f"not used: {line}" for line in rejected)
        )
    path = Path(resume)
    if not path.is_dir():
        raise UserInputError(f"training.checkpoint.resume: no folder {path}; give a checkpoint, latest or none")
    verify(path)
    return StartingPoint(checkpoint=path, starts_anew=False, is_explicit=True)


def restore(job: Job, start: StartingPoint, allowed: Collection[str]) -> tuple[TrainerState, list[str]]:
    """Bring the job to its starting point; return the state, and what to tell the user."""
    notes = list(start.notes)
    if start.checkpoint is None:
        if job.is_main:
            if start.starts_anew:
                notes.append(f"starting anew; the earlier run is kept in {job.folder.set_aside(job.folder.contents())}")
            job.folder.cut_back({})
        return TrainerState(), notes
    state, saved_identity = TrainerState.read(start.checkpoint)
    notes += compare(saved_identity, job.objects.identity, allowed)
    job.objects.read_checkpoint(start.checkpoint)
    if job.is_main:
        is_own = start.checkpoint.resolve().parent == job.store.folder.resolve()
        job.folder.cut_back(state.file_sizes if is_own else {})
        later = [job.store.path(step) for step in job.store.steps() if step > state.global_step]
        if start.is_explicit and later:
            notes.append(f"later checkpoints are kept in {job.folder.set_aside(later)}")
        job.store.point_at_best(state.best_step if is_own else None, state.best_loss)
    notes.append(
        f"continuing from {start.checkpoint}: step {state.global_step}, epoch {state.epoch}, "
        f"batch {state.epoch_batch}, lr {job.learning_rate():.3g}; no row is read to get there"
    )
    return state, notes
