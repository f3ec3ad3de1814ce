"""Saving a run: checkpoints in a thread (asynchronously), its errors and who waits for it; the final model."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from threading import Thread

import attrs
from torch import Tensor
from torch.distributed import ProcessGroup

from dlm.errors import FinalStateNotSavedError, LostProcessError, NonFiniteError
from dlm.training.checkpoint_contents import Contents, TrainingObjects
from dlm.training.checkpoints.checkpoint_store import CheckpointStore
from dlm.training.checkpoints.publishing import publish
from dlm.training.output_folder import OutputFolder
from dlm.training.processes import group_of_threads, lost_process, on_main, waiting_for
from dlm.training.trainer_state import TrainerState
from dlm.training.weights import lay_out

Best = tuple[int | None, float | None]
"""The best step so far, and its loss."""
Outcome = str | None
"""Of a save: what could not be tidied up afterwards, which is in nobody's way."""


@attrs.define(kw_only=True)
class Saver:
    """What is saved, and where. All processes call the methods; at most one save is under way."""

    objects: TrainingObjects
    folder: OutputFolder
    store: CheckpointStore
    sharded: bool
    """Whether each process writes its part of a checkpoint, instead of one all of it."""
    _group: ProcessGroup | None = None
    _under_way: Future[Outcome] | None = None
    """The save that was started last, until it is waited for."""
    _last: Future[Outcome] | None = None
    """The same, for ever: where others do most of the work, this process may hear of their end before its own."""

    def prepare(self) -> None:
        """Do beforehand what the first save would take its time for, or what would make it fail after hours."""
        if self.sharded:
            self._group = group_of_threads(self.objects.accelerator)  # by another network than NCCL's, maybe
        if self.objects.accelerator.is_main_process:
            self.objects.settings()

    def start(self, state: TrainerState) -> None:
        """Copy what the checkpoint of this step holds; a thread publishes it while training goes on.

        The save before must have been waited for.
        """
        is_main = bool(self.objects.accelerator.is_main_process)
        if is_main:
            state.file_sizes = self.folder.sizes()
        step, best = state.global_step, (state.best_step, state.best_loss)
        with waiting_for(self.objects.accelerator, "the others' share of what is saved"):
            contents = self._stage(state)
        action = (lambda: self._publish(step, best, contents)) if is_main else contents.help_to_write
        self._last = self._under_way = _in_thread(action, after=self._last)

    def _stage(self, state: TrainerState) -> Contents:
        if not self.sharded:
            return self.objects.stage(state, keeps=bool(self.objects.accelerator.is_main_process))
        from dlm.training.sharded_contents import ShardedContents  # torch's machinery is slow to import

        return ShardedContents.stage(self.objects, state, self._group)

    def wait(self) -> Outcome:
        """Wait for the save that was started last, if it has not been waited for.

        Raises:
            OSError: On every process, when one could not write.
            NonFiniteError: On every process: a parameter is not finite.
        """
        under_way, self._under_way = self._under_way, None
        return on_main(
            self.objects.accelerator,
            lambda: None if under_way is None else under_way.result(),
            "the checkpoint to be written",
        )

    def close(self) -> None:
        """Let a save that is under way come to its end, whatever that is."""
        if self._under_way is not None:
            with suppress(Exception):
                self._under_way.result()

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """Where a run fails, finish the save that is under way; not where it is to end at once (a second signal)."""
        try:
            yield
        except Exception as error:
            is_lost = isinstance(error, LostProcessError) or (isinstance(error, RuntimeError) and lost_process(error))
            if not is_lost:  # another process, whose part would be waited for
                self.close()
            raise

    def save_final(self) -> None:
        """Write the final model in a folder of its own: no process holds more than one whole tensor.

        Raises:
            FinalStateNotSavedError: It could not be written.
        """
        layout, tensors = lay_out(self.objects.weights, self.objects.weights.tensors())
        values = self._one_by_one(tensors)

        def publish_final() -> None:
            try:
                publish(
                    self.folder.final, lambda folder: self.objects.write_model(folder, layout, values), replace=True
                )
            finally:
                _ask_for_all(values)  # the other processes do

        if not self.objects.accelerator.is_main_process:
            _ask_for_all(values)
        try:
            on_main(self.objects.accelerator, publish_final, "the final model to be written")
        except OSError as error:
            raise FinalStateNotSavedError(
                f"cannot write {self.folder.final} ({error}); the last checkpoint holds the same model"
            ) from None

    def _one_by_one(self, values: Iterator[Tensor]) -> Iterator[Tensor]:
        """The same, and who waits for the others' part of one can say so."""
        end = object()
        while True:
            with waiting_for(self.objects.accelerator, "the others' share of the final model"):
                value = next(values, end)
            if not isinstance(value, Tensor):
                return
            yield value

    def _publish(self, step: int, best: Best, contents: Contents) -> Outcome:
        """Publish a checkpoint, point at the best one, and delete old ones."""
        try:
            self.folder.flush()
            self.store.save(step, lambda folder: contents.write(folder, self.objects), contents.num_bytes)
        except RuntimeError as error:
            raise lost_process(error, "the others' share of the checkpoint") or error from error
        finally:
            contents.dismiss_helpers()
        try:
            self.store.point_at_best(*best)
            self.store.rotate()
        except OSError as error:
            return f"step {step}: could not tidy up the checkpoints ({error})"
        return None


def _ask_for_all(values: Iterator[Tensor]) -> None:
    """Take part in what makes tensors whole, to the last of them, also where one is not wanted any more."""
    with suppress(NonFiniteError):
        for _ in values:
            pass


def _in_thread(action: Callable[[], Outcome], after: Future[Outcome] | None) -> Future[Outcome]:
    """What an action that a thread has begun will come to. The thread ends with the process, however that ends.

    Args:
        action: what to do.
        after: what has to have ended before.
    """
    future: Future[Outcome] = Future()

    def run() -> None:
        try:
            if after is not None:
                after.exception()
            future.set_result(action())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=run, name="dlm-checkpoint", daemon=True).start()
    return future
