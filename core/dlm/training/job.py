"""Everything a run consists of, put together."""

from collections.abc import Iterator, Mapping, Sequence

import attrs
import torch
from accelerate import Accelerator

from dlm.data.conversations.bad_rows import BadRow
from dlm.data.loader import StepLoader
from dlm.data.step_batch import StepBatch
from dlm.data.streaming import StreamLoader
from dlm.errors import ExitCode, FinalStateNotSavedError
from dlm.training.checkpoints.publishing import publish
from dlm.training.checkpoints.store import CheckpointStore
from dlm.training.evaluation import Evaluation
from dlm.training.output_folder import OutputFolder
from dlm.training.processes import on_main
from dlm.training.samples import Sampler
from dlm.training.saving import Contents, TrainingObjects
from dlm.training.signals import Signals
from dlm.training.state import TrainerState
from dlm.training.step import TrainingStep


@attrs.frozen(kw_only=True)
class Job:
    """The parts of a run, and what all of its processes do together."""

    accelerator: Accelerator
    step: TrainingStep
    evaluation: Evaluation | None
    sampler: Sampler
    loader: StepLoader | StreamLoader
    objects: TrainingObjects
    folder: OutputFolder
    store: CheckpointStore
    data_summary: str
    data_notes: Sequence[str]
    unused_rows: tuple[BadRow, ...]
    num_steps: int
    way_on: str
    """What the user has to do so that the run goes on after it was ended."""
    logging_every: int
    evaluate_every: int
    save_every: int

    @property
    def is_main(self) -> bool:
        """Whether this process writes and speaks."""
        return bool(self.accelerator.is_main_process)

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        device: torch.device = self.accelerator.device
        return device

    def learning_rate(self) -> float:
        """The learning rate of the next step, the largest of the parameter groups."""
        return float(max(self.objects.scheduler.get_last_lr()))

    def epoch_of(self, state: TrainerState) -> float:
        """Passes over the data so far; whole passes where the length of the data is not known."""
        num_steps = self.loader.steps_per_epoch
        return state.epoch + (round(state.epoch_batch / num_steps, 4) if num_steps else 0)

    def batches_from(self, state: TrainerState) -> Iterator[StepBatch]:
        """Global step batches from the position of ``state`` on; no row before it is read."""
        if isinstance(self.loader, StreamLoader):
            return self.loader.steps(state.epoch, state.epoch_batch, state.stream)
        return self.loader.steps(state.epoch, state.epoch_batch)

    def position_after(self, step_batch: StepBatch) -> tuple[int, int]:
        """Epoch and batch that follow a step batch."""
        if step_batch.epoch_batch + 1 == self.loader.steps_per_epoch:
            return step_batch.epoch + 1, 0
        return step_batch.epoch, step_batch.epoch_batch + 1

    def save(self, state: TrainerState) -> None:
        """Publish the checkpoint of this step; the main process writes, the others wait.

        Raises:
            OSError: On every process, when the main one could not write.
        """
        contents = self.objects.collect(keeps=self.is_main)
        on_main(self.accelerator, lambda: self._publish(state, contents))

    def _publish(self, state: TrainerState, contents: Contents) -> None:
        state.file_sizes = self.folder.flush()
        self.store.save(
            state.global_step,
            lambda folder: self.objects.write_checkpoint(folder, state, contents),
            contents.num_bytes,
        )

    def tidy(self, state: TrainerState) -> None:
        """Point at the best checkpoint, and delete old ones.

        Raises:
            OSError: On every process, when the main one could not.
        """

        def point_and_rotate() -> None:
            self.store.point_at_best(state.best_step, state.best_loss)
            self.store.rotate()

        on_main(self.accelerator, point_and_rotate)

    def save_final(self) -> None:
        """Write the final model in a folder of its own.

        Raises:
            FinalStateNotSavedError: It could not be written.
        """
        contents = self.objects.collect(keeps=self.is_main)

        def publish_final() -> None:
            publish(self.folder.final, lambda folder: self.objects.write_model(folder, contents), replace=True)

        try:
            on_main(self.accelerator, publish_final)
        except OSError as error:
            raise FinalStateNotSavedError(
                f"cannot write {self.folder.final} ({error}); the last checkpoint holds the same model"
            ) from None

    def agree(self, signals: Signals) -> tuple[ExitCode | None, bool]:
        """How to end, and whether to save, as any process was told. Waits for all of them."""
        wishes = [int(signals.ending or 0), int(signals.take_save_request())]
        if self.accelerator.num_processes > 1:
            gathered = self.accelerator.gather(torch.tensor([wishes], device=self.device))
            wishes = gathered.amax(dim=0).tolist()
        return ExitCode(wishes[0]) if wishes[0] else None, bool(wishes[1])

    def track(self, metrics: Mapping[str, object], step: int) -> None:
        """Hand numbers to the trackers that the run file names."""
        numbers = {name: value for name, value in metrics.items() if isinstance(value, (int, float)) and name != "step"}
        self.accelerator.log(numbers, step=step)
