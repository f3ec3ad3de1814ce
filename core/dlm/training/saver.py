"""Saving a run: checkpoints and the final model, written by the main process (rank 0) while the others wait."""

import attrs

from dlm.errors import FinalStateNotSavedError
from dlm.training.checkpoint_contents import Contents, TrainingObjects
from dlm.training.checkpoints.checkpoint_store import CheckpointStore
from dlm.training.checkpoints.publishing import publish
from dlm.training.output_folder import OutputFolder
from dlm.training.processes import on_main, waiting_for
from dlm.training.trainer_state import TrainerState


@attrs.frozen(kw_only=True)
class Saver:
    """What is saved, and where. All processes call the methods."""

    objects: TrainingObjects
    folder: OutputFolder
    store: CheckpointStore

    def save(self, state: TrainerState) -> None:
        """Publish the checkpoint of this step.

        Raises:
            OSError: On every process, when the main one could not write.
        """
        contents = self._collect()
        on_main(
            self.objects.accelerator,
            lambda: self._publish(state, contents),
            f"the checkpoint of step {state.global_step}",
        )

    def tidy(self, state: TrainerState) -> None:
        """Point at the best checkpoint, and delete old ones.

        Raises:
            OSError: On every process, when the main one could not.
        """

        def point_and_rotate() -> None:
            self.store.point_at_best(state.best_step, state.best_loss)
            self.store.rotate()

        on_main(self.objects.accelerator, point_and_rotate, "old checkpoints to be deleted")

    def save_final(self) -> None:
        """Write the final model in a folder of its own.

        Raises:
            FinalStateNotSavedError: It could not be written.
        """
        contents = self._collect()

        def publish_final() -> None:
            publish(self.folder.final, lambda folder: self.objects.write_model(folder, contents), replace=True)

        try:
            on_main(self.objects.accelerator, publish_final, "the final model to be written")
        except OSError as error:
            raise FinalStateNotSavedError(
                f"cannot write {self.folder.final} ({error}); the last checkpoint holds the same model"
            ) from None

    def _collect(self) -> Contents:
        with waiting_for(self.objects.accelerator, "the others' share of what is saved"):
            return self.objects.collect(keeps=bool(self.objects.accelerator.is_main_process))

    def _publish(self, state: TrainerState, contents: Contents) -> None:
        state.file_sizes = self.folder.flush()
        self.store.save(
            state.global_step,
            lambda folder: self.objects.write_checkpoint(folder, state, contents),
            contents.num_bytes,
        )
