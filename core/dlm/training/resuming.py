"""Resume: which checkpoint a run continues from (latest, a path, none), what is checked, and logs cut back."""

import socket
import time
from collections.abc import Collection
from datetime import datetime
from functools import partial
from pathlib import Path

import attrs
from accelerate import Accelerator

from dlm.errors import CheckpointError, UserInputError
from dlm.model.checkpoint_sources import is_sharded
from dlm.training.checkpoints.checkpoint_store import CheckpointStore
from dlm.training.checkpoints.manifest import verify
from dlm.training.engine import Engine
from dlm.training.output_folder import OutputFolder, this_process
from dlm.training.processes import on_all, on_main
from dlm.training.run_identity import CLOCK, compare, rows_of_step
from dlm.training.saver import Saver
from dlm.training.trainer_state import TrainerState
from dlm.user_paths import user_path

LATEST = "latest"
ANEW = "none"
_PATIENCE_SECONDS = 10.0
"""How long a network file system may take to show on one host what another has written."""


@attrs.frozen(kw_only=True)
class StartingPoint:
    """The checkpoint to restore, or none."""

    checkpoint: Path | None
    is_own: bool
    """Whether the run goes on with the logs that its output folder holds; otherwise they are set aside."""
    notes: tuple[str, ...] = ()
    started: datetime = attrs.field(factory=datetime.now)
    """When the run was first started: what chat templates print, so that its rows are the same whenever it goes on."""


def starting_point(folder: OutputFolder, store: CheckpointStore, resume: str | None) -> StartingPoint:
    """Decide where to start, before anything heavy is loaded.

    Args:
        folder: the output folder, held by this process.
        store: its checkpoints.
        resume: ``latest``, ``none``, the path of a checkpoint, or None: not said.

    Raises:
        UserInputError: Not said although there is an earlier run, or the path does not exist.
        CheckpointError: The checkpoint at the path does not verify or its logs are shorter than it needs them, or that
            holds for each of the folder's.
    """
    if resume == ANEW:
        return StartingPoint(checkpoint=None, is_own=False)
    if resume not in (None, LATEST):
        path = user_path(str(resume))
        if not path.is_dir():
            raise UserInputError(f"training.checkpoint.resume: no folder {path}; give a checkpoint, latest or none")
        is_own = path.resolve().parent == store.folder.resolve()
        (partial(_check, folder) if is_own else verify)(path)
        return _from(path, is_own=is_own)
    steps = store.steps()
    if steps and resume is None:
        raise UserInputError(
            f"training.output_dir: {folder.path} already holds checkpoints, up to step {steps[-1]}. "
            "Continue with training.checkpoint.resume=latest, start anew with training.checkpoint.resume=none (the old "
            "run is kept in a folder previous-N), or choose another training.output_dir"
        )
    if not steps and folder.final.exists():
        raise UserInputError(
            f"training.output_dir: {folder.path} holds a finished model, and no checkpoints to continue from. Start "
            "anew with training.checkpoint.resume=none (the old run is kept in a folder previous-N), or choose another "
            "training.output_dir"
        )
    checkpoint, rejected = store.latest(partial(_check, folder))
    if steps and checkpoint is None:
        listing = "\n  ".join(rejected)
        raise CheckpointError(
            f"{folder.path}: none of its checkpoints can be continued from:\n  {listing}\n"
            "put back what is missing, or start anew with training.checkpoint.resume=none (the old run is kept in a "
            "folder previous-N)"
        )
    notes = tuple(f"not used: {line}" for line in rejected)
    if checkpoint is None:
        return StartingPoint(checkpoint=None, is_own=True, notes=notes)
    return _from(checkpoint, is_own=True, notes=notes)


def _from(checkpoint: Path, *, is_own: bool, notes: tuple[str, ...] = ()) -> StartingPoint:
    _, identity = TrainerState.read(checkpoint)
    clock = identity.get(CLOCK)
    started = datetime.fromisoformat(clock) if isinstance(clock, str) else datetime.now()
    return StartingPoint(checkpoint=checkpoint, is_own=is_own, notes=notes, started=started)


def _check(folder: OutputFolder, checkpoint: Path) -> None:
    """See that a checkpoint of the folder is whole, and that the logs reach as far as it does."""
    verify(checkpoint)
    state, _ = TrainerState.read(checkpoint)
    if gone := folder.what_is_gone(state.file_sizes):
        raise CheckpointError(f"{checkpoint}: {gone}")


def check_same_run(engine: Engine, start: StartingPoint, allowed: Collection[str]) -> tuple[TrainerState, list[str]]:
    """Where the run would start, and what to tell the user of that. Nothing is changed.

    Raises:
        UserInputError: The run is not the one that wrote the checkpoint.
    """
    if start.checkpoint is None:
        return engine.state, list(start.notes)
    state, saved = TrainerState.read(start.checkpoint)
    now = engine.saver.objects.identity
    differences = compare(saved, now, allowed, is_sharded=is_sharded(start.checkpoint))
    if (before := rows_of_step(saved)) != (rows := rows_of_step(now)):
        state.epoch_batch = state.epoch_batch * before // rows  # the place in the epoch is one among its rows
    return state, [*start.notes, *differences]


def restore(engine: Engine, start: StartingPoint, allowed: Collection[str]) -> list[str]:
    """Bring the run to its starting point; return what to tell the user.

    Raises:
        UserInputError: The run is not the one that wrote the checkpoint.
        CheckpointError: The checkpoint does not fit.
    """
    saver, accelerator = engine.saver, engine.accelerator
    if start.checkpoint is not None or saver.sharded:
        _check_shared(saver.folder, accelerator)
    engine.state, notes = on_all(
        accelerator, lambda: check_same_run(engine, start, allowed), "the others to look there"
    )
    if start.checkpoint is not None:
        saver.objects.read_checkpoint(start.checkpoint)
    told, has_best = on_main(accelerator, lambda: _prepare_folder(saver, start, engine.state), "the output folder")
    notes += told
    if not has_best:  # it is another run's, or gone: the best one from here on is the best of those the folder has
        engine.state.best_step = engine.state.best_loss = None
    if start.checkpoint is not None:
        state = engine.state
        notes.append(
            f"continuing from {start.checkpoint}: step {state.global_step}, epoch {state.epoch}, "
            f"batch {state.epoch_batch}, lr {engine.step.learning_rate:.3g}; no row is read to get there"
        )
        if state.global_step >= engine.num_steps:
            notes.append(
                f"all {engine.num_steps} steps are done, and nothing is left to train; more of them, accepted with "
                "--allow-change, go on, and another training.output_dir begins anew"
            )
    return notes


def _check_shared(folder: OutputFolder, accelerator: Accelerator) -> None:
    """See that all processes mean the same folder, which the first one holds: each is to read it, or to write to it.

    Raises:
        UserInputError: On all of them, where one means another.
    """
    if accelerator.num_processes == 1:
        return
    holder = on_main(accelerator, this_process, "the output folder")

    def look() -> None:
        since = time.monotonic()  # the first process must not: whoever holds the lock loses it by reading the file
        while not accelerator.is_main_process and folder.holder() != holder:
            if time.monotonic() - since > _PATIENCE_SECONDS:
                raise UserInputError(
                    f"training.output_dir: {folder.path.absolute()} on {socket.gethostname()} is not the folder that "
                    f"{holder} holds; what all processes write or read together (a sharded checkpoint, the one to go "
                    "on from) has to be on a file system that all hosts share, at the same path"
                )
            time.sleep(0.1)

    on_all(accelerator, look, "the others to look at the output folder")


def _prepare_folder(saver: Saver, start: StartingPoint, state: TrainerState) -> tuple[list[str], bool]:
    """Bring the output folder to what it was at the starting point; say whether it holds the best checkpoint so far."""
    folder, store = saver.folder, saver.store
    later = [store.path(step) for step in store.steps() if step > state.global_step]
    aside = later if start.is_own else folder.contents()
    notes = []
    with folder.made_ready():
        if aside:
            what = "later checkpoints are" if start.is_own else "the earlier run is"
            notes.append(f"{what} kept in {folder.set_aside(aside)}")
        folder.cut_back(state.file_sizes if start.is_own else {})
        store.point_at_best(state.best_step if start.is_own else None, state.best_loss)
    return notes, store.best_step() is not None
