"""The training loop: evaluate, save, step, log (metrics, trackers); when bad (NaN) steps or failed saves end a run."""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NoReturn

import attrs
from accelerate import Accelerator

from dlm.data.batch import StepBatch
from dlm.data.loader import ReadAhead
from dlm.errors import DataError, DlmError, ExitCode, FinalStateNotSavedError, NonFiniteError, NothingToLearnError
from dlm.training.console import TrainingConsole
from dlm.training.evaluation import Evaluates, Figures, Samples
from dlm.training.output_folder import BAD_BATCHES, METRICS, SAMPLES, TIMINGS
from dlm.training.parallel import Plan
from dlm.training.run_data import PreparedData
from dlm.training.saver import Saver
from dlm.training.signals import Signals
from dlm.training.step import Step, StepResult
from dlm.training.trainer_state import Stopwatch, TrainerState, Window

MAX_BAD_STEPS = 3
"""Steps in a row with a loss or gradient that is not finite, after which a run stops."""
FEW_STEPS_WITHOUT_SIGNAL, MAX_STEPS_WITHOUT_SIGNAL = 10, 50
"""Steps in a row whose rewards told no answers apart, after which the user is warned, and a run stops."""
MAX_FAILED_SAVES = 3
"""Saves in a row that found no room on the disk, after which a run stops."""


class StoppedBySignalError(DlmError):
    """The run was asked to end, and saved its state."""

    def __init__(self, message: str, exit_code: ExitCode) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@attrs.define(kw_only=True)
class Engine:
    """What a run consists of, and the loop over its steps."""

    accelerator: Accelerator
    data: PreparedData
    step: Step
    evaluation: Evaluates | None
    sampler: Samples
    saver: Saver
    console: TrainingConsole
    num_steps: int
    logging_every: int
    evaluate_every: int
    save_every: int
    parallel: Plan
    """How the processes share the model."""
    way_on: str
    """What the user has to do so that the run goes on after it was ended."""
    closing_words: "Callable[[Engine], Iterable[str]] | None" = None
    """What was learned, a line each, where it is not said in losses."""
    state: TrainerState = attrs.field(factory=TrainerState)
    """Where the run stands."""
    stopwatch: Stopwatch = attrs.field(factory=Stopwatch)
    num_failed_saves: int = 0
    unsettled: tuple[int, int | None, float | None] | None = None
    """Of the save that is under way: its step, and which step was the best one before, with its loss."""

    def run(self) -> None:
        """Train to the last step, and write the final model.

        Raises:
            StoppedBySignalError: A signal asked for it; the state is saved.
            NonFiniteError: Loss or gradient was not finite too often in a row.
            FinalStateNotSavedError: The disk did not take what it had to.
        """
        state, loader = self.state, self.data.loader
        self.saver.prepare()
        self.stopwatch = Stopwatch()  # reading a checkpoint is no training
        with (
            Signals(speaks=self.is_main) as signals,
            self.console.progress_from(state.global_step),
            self.saver.finishing(),
        ):
            batches = ReadAhead(loader.steps(state.epoch, state.epoch_batch, state.stream))
            while True:
                self.evaluate_and_save()
                if self.is_done:
                    break
                try:
                    step_batch = next(batches)
                except DataError:
                    # What ends this process may have reached the data workers first.
                    if signals.ending is None:
                        raise
                    self.stop(signals.ending)
                result = self.step(step_batch, state.global_step, lambda: self.prepare_next(batches))
                self.take_in(step_batch, result)
                if state.global_step % self.logging_every == 0 or self.is_done:
                    self.log(result)
                ending, save_is_wanted = signals.agree(self.accelerator)
                if ending is not None:
                    self.stop(ending)
                if save_is_wanted:
                    self.save()
            self.saver.save_final()

    def prepare_next(self, batches: ReadAhead) -> None:
        """Read and noise the batch of the next step, while the device works on this one."""
        following = self.state.global_step + 1
        if self.accelerator.device.type != "cpu" and following < self.num_steps:
            step_batch = batches.peek()
            if step_batch is not None:
                self.step.prepare(step_batch, following)

    @property
    def is_done(self) -> bool:
        """Whether the last step was taken."""
        return self.state.global_step >= self.num_steps

    @property
    def is_main(self) -> bool:
        """Whether this process (rank 0) writes and speaks."""
        return bool(self.accelerator.is_main_process)

    def evaluate_and_save(self) -> None:
        """What is due between two steps. Where a run was ended, it is made up for when it goes on."""
        state, sums = self.state, None
        step = state.global_step
        if (step % self.evaluate_every == 0 or self.is_done) and state.evaluated_step != step:
            sums = self.evaluate()
        if step > 0 and (step % self.save_every == 0 or self.is_done):
            self.save(sums)

    def stop(self, ending: ExitCode) -> NoReturn:
        """Save and end."""
        self.settle()
        self.num_failed_saves = MAX_FAILED_SAVES - 1  # there is no next time
        self.save()
        self.settle()
        raise StoppedBySignalError(
            f"stopped after step {self.state.global_step}, which is saved; {self.way_on} to continue",
            ending,
        )

    def take_in(self, step_batch: StepBatch, result: StepResult) -> None:
        """Advance the state by one step, taken or skipped."""
        state, sums = self.state, result.sums
        state.global_step += 1
        state.epoch, state.epoch_batch = step_batch.next_position(self.data.loader.steps_per_epoch)
        state.stream = step_batch.data_state
        state.tokens_seen += int(sums.real_tokens)
        self.stopwatch.add(sums.real_tokens, result.seconds)
        self.console.advance(state.global_step)
        if result.is_bad:
            self.skip(step_batch, result)
        else:
            state.num_bad_in_a_row = 0
            state.window.add(sums, result.grad_norm, result.figures)
        state.num_steps_without_signal = 0 if result.has_signal else state.num_steps_without_signal + 1
        self.watch_for_signal()

    def watch_for_signal(self) -> None:
        """Warn where nothing has been learned from for a while; stop where that lasts.

        Raises:
            NothingToLearnError: for fifty steps in a row.
        """
        number = self.state.num_steps_without_signal
        said = f"step {self.state.global_step}: for {number} steps all answers to each prompt were worth the same"
        if number == FEW_STEPS_WITHOUT_SIGNAL:
            self.console.say(f"{said}: nothing is learned; look at samples and rewards")
        if number >= MAX_STEPS_WITHOUT_SIGNAL:
            raise NothingToLearnError(
                f"{said}, so that there is nothing to learn from; the checkpoints are untouched. Try easier or harder "
                "prompts, a higher sampling.temperature, a larger rl.group_size, rewards that tell answers apart, or a "
                "model fine-tuned on some answers first"
            )

    def skip(self, step_batch: StepBatch, result: StepResult) -> None:
        """Record a step that was not taken; stop at the third in a row."""
        state = self.state
        state.num_bad_in_a_row += 1
        record = {
            "step": state.global_step,
            "epoch": step_batch.epoch,
            "epoch_batch": step_batch.epoch_batch,
            "rows": list(step_batch.row_ids),
            "loss": str(result.sums.loss),
            "grad_norm": str(result.grad_norm),
        }
        self.append(BAD_BATCHES, record)
        self.console.say(
            f"step {state.global_step}: loss {result.sums.loss}, gradient norm {result.grad_norm}: "
            f"the step was not taken; its batch is in {BAD_BATCHES}"
        )
        if state.num_bad_in_a_row >= MAX_BAD_STEPS:
            raise NonFiniteError(
                f"loss or gradient was not finite {MAX_BAD_STEPS} times in a row, at step {state.global_step}; the "
                "checkpoints are untouched. Try a lower optim.lr, a longer warm-up, training.noise.reweight_cap, or "
                "mixed_precision: bf16 instead of fp16"
            )

    def log(self, result: StepResult) -> None:
        """Write one line of metrics and one of timings for the window that ends here, with the last step's rate."""
        state = self.state
        metrics = {**self._position(), "split": "train", **state.window.metrics(), "lr": result.learning_rate}
        timings = self.stopwatch.lap(self.accelerator.device)
        self.append(METRICS, metrics)
        self.append(TIMINGS, {"step": state.global_step, **timings})
        for sample in result.samples:
            self.append(SAMPLES, {"step": state.global_step, "split": "train", **sample})
        self.console.report(state.global_step, metrics, timings["tokens_per_second"] or 0.0)
        self.track(metrics)
        state.window = Window()

    def evaluate(self) -> Figures | None:
        """Measure the evaluation loss and generate samples; None where evaluation is off."""
        started, step = time.monotonic(), self.state.global_step
        sums = None if self.evaluation is None else self.evaluation()
        completions = self.sampler()  # on every process: a sharded model needs all of them
        if sums is not None:
            metrics = {**self._position(), "split": "eval", "loss": sums.loss, **sums.quality()}
            self.append(METRICS, metrics)
            self.track({f"eval_{name}": value for name, value in metrics.items()})
            self.console.say(f"step {step}: {sums.headline}")
        for completion in completions:
            self.append(SAMPLES, {"step": step, **completion.record})
            self.console.say(f"  {completion}")
        self.state.evaluated_step = step
        self.stopwatch.exclude(time.monotonic() - started)
        return sums

    def save(self, sums: Figures | None = None) -> None:
        """Start to publish a checkpoint, which is the best one if its evaluation ``sums`` say so.

        Training goes on meanwhile; only the last one is waited for.
        """
        started, state = time.monotonic(), self.state
        self.settle()
        self.unsettled = state.global_step, state.best_step, state.best_loss
        if sums is not None and (loss := sums.loss) < (math.inf if state.best_loss is None else state.best_loss):
            state.best_step, state.best_loss = state.global_step, loss
        self.saver.start(state)
        if self.is_done:
            self.settle()
        self.stopwatch.exclude(time.monotonic() - started)

    def settle(self) -> None:
        """Wait for the save that is under way, if there is one: a full disk is survived, and the next save tries again.

        Raises:
            NonFiniteError: A parameter is not finite.
            FinalStateNotSavedError: See :meth:`survive`.
        """
        if self.unsettled is None:
            return
        (step, best_step, best_loss), self.unsettled = self.unsettled, None
        try:
            note = self.saver.wait()
        except OSError as error:
            self.state.best_step, self.state.best_loss = best_step, best_loss
            self.survive(step, error)
        else:
            self.num_failed_saves = 0
            if note is not None:
                self.console.say(note)

    def survive(self, step: int, error: OSError) -> None:
        """Go on without the checkpoint of ``step``, up to a point.

        Raises:
            FinalStateNotSavedError: It was the third in a row, or the last one of the run.
        """
        self.num_failed_saves += 1
        self.console.say(f"step {step}: could not save a checkpoint ({error}); older ones are intact")
        if self.num_failed_saves >= MAX_FAILED_SAVES or step >= self.num_steps:
            raise FinalStateNotSavedError(
                f"step {step} could not be saved ({error}); free some space and {self.way_on} to continue from the "
                "newest checkpoint"
            )

    def append(self, name: str, record: dict[str, object]) -> None:
        """Add a line to a log, on the main process.

        Raises:
            FinalStateNotSavedError: It cannot be written. The logs are part of what is promised, so the run ends.
        """
        if not self.is_main:
            return
        try:
            self.saver.folder.append(name, record)
        except OSError as error:
            raise FinalStateNotSavedError(
                f"cannot write {name} ({error}); free some space and {self.way_on} to continue from the newest "
                "checkpoint"
            ) from None

    def track(self, metrics: Mapping[str, object]) -> None:
        """Hand numbers to the trackers that the run file names."""
        numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float) and name != "step"}
        self.accelerator.log(numbers, step=self.state.global_step)

    def _position(self) -> dict[str, object]:
        return {"step": self.state.global_step, "epoch": self.state.epochs_done(self.data.loader.steps_per_epoch)}
