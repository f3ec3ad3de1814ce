"""What a run says at its beginning and at its end."""

from collections.abc import Sequence
from typing import Literal

import attrs
import cattrs
import torch

from dlm.diffusion.statistics import NUM_RATE_BINS
from dlm.sampling.texts import fill_passage
from dlm.training.console import TrainingConsole, percent
from dlm.training.job import Job
from dlm.training.output_folder import METRICS, OutputFolder
from dlm.training.sharding import is_sharded

PASSAGE_RATE = 0.3
"""Share of the evaluation passage that is masked for the demonstration at the end."""


def _is_share(_: object, attribute: "attrs.Attribute[list[float | None]]", values: list[float | None]) -> None:
    if not all(value is None or 0.0 <= value <= 1.0 for value in values):
        raise ValueError(f"{attribute.name} are not shares")


@attrs.frozen
class MetricsLine:
    """What is shown of a line of the metrics."""

    step: int
    split: Literal["train", "eval"]
    loss: float | None
    masked_accuracy_by_rate: list[float | None] = attrs.field(validator=_is_share)

    @property
    def loss_text(self) -> str:
        """The loss; it is null in the log where it was not finite."""
        return "not finite" if self.loss is None else f"{self.loss:.3f}"


def evaluations(folder: OutputFolder) -> tuple[list[MetricsLine], list[int]]:
    """The evaluations in the log of a run, and the numbers of the lines that are damaged: showing them ends no run."""
    found, damaged = [], []
    for number, content in enumerate(folder.read(METRICS), start=1):
        try:
            line = cattrs.structure(content, MetricsLine)
        except (cattrs.BaseValidationError, TypeError):
            damaged.append(number)
        else:
            found += [line] if line.split == "eval" else []
    return found, damaged


def _listed(numbers: Sequence[int]) -> str:
    first, others = ", ".join(map(str, numbers[:5])), len(numbers) - 5
    return f"{first} and {others} more" if others > 0 else first


@attrs.frozen
class Report:
    """The opening and the closing words of a run."""

    job: Job
    console: TrainingConsole

    def opening(self, notes: Sequence[str]) -> None:
        """What runs, on what, for how long."""
        job, say = self.job, self.console.say
        for note in notes:
            say(note)
        sizes = [(parameter.numel(), parameter.requires_grad) for parameter in job.objects.model.parameters()]
        num_trained, num_parameters = sum(size for size, trains in sizes if trains), sum(size for size, _ in sizes)
        trained = "" if num_trained == num_parameters else f", of which {num_trained:,} are trained"
        say(f"data: {job.data_summary}")
        for note in job.data_notes:
            say(f"  {note}")
        if job.evaluation is not None:
            say(f"evaluation: {job.evaluation.summary}")
        say(
            f"model: {type(job.objects.model).__name__}, {num_parameters:,} parameters{trained}, on {job.device}; "
            f"{job.num_steps} steps of {job.loader.shape.rows_per_step} rows; writing to {job.folder.path}"
        )

    def closing(self) -> None:
        """What was learned."""
        if not self.job.is_main:
            return
        say = self.console.say
        found, damaged = evaluations(self.job.folder)
        if damaged:
            say(f"{self.job.folder.path / METRICS}: damaged, and left out here: line {_listed(damaged)}")
        if found:
            shown = (found[0], found[-1])
            say("eval loss: " + ", ".join(f"{each.loss_text} at step {each.step}" for each in shown))
            say("masked tokens guessed right, by mask rate:")
            width = 1 / NUM_RATE_BINS
            for number, accuracy in enumerate(found[-1].masked_accuracy_by_rate):
                bar = "#" * round(40 * (accuracy or 0.0))
                say(f"  {number * width:.1f}-{(number + 1) * width:.1f}  {percent(accuracy):>6}  {bar}")
            # A sharded model needs all processes, and this is the main one alone.
            if self.job.objects.model.config.noise_shows_mask and not is_sharded(self.job.step.objective):
                self._passage()
        say(f"the model is in {self.job.folder.final}; try it:")
        for command in self.job.objects.weights.usage(self.job.folder.final):
            say(f"  {command}")

    def _passage(self) -> None:
        """One held-out passage with holes, filled in by the model."""
        assert self.job.evaluation is not None
        job, tokenizer = self.job, self.job.objects.tokenizer
        batch = next(iter(self.job.evaluation.batches))
        # Of the first rows the one with the most different tokens: rows of dashes and spaces show nothing.
        row = max(range(len(batch.input_ids)), key=lambda index: len(set(batch.input_ids[index].tolist())))
        ids = batch.input_ids[row][batch.document_id[row] >= 0]
        generator = torch.Generator().manual_seed(0)
        masked = torch.rand(len(ids), generator=generator) < PASSAGE_RATE
        job.objects.model.eval()
        filled = fill_passage(job.objects.model, tokenizer, ids, masked).cpu()
        right = int((filled == ids)[masked].sum())
        self.console.say(f"a passage it has not seen, {int(masked.sum())} of {len(ids)} tokens masked:")
        hole = torch.where(masked, torch.tensor(job.objects.model.config.mask_token_id), ids)
        self.console.say(f"  masked: {self._text(hole)}")
        self.console.say(f"  filled: {self._text(filled)}   ({right} right)")
        self.console.say(f"  truth:  {self._text(ids)}")

    def _text(self, ids: torch.Tensor) -> str:
        tokenizer = self.job.objects.tokenizer
        text = str(tokenizer.decode(ids.tolist())).replace(str(self.job.objects.model.config.mask_token), "_")
        return " ".join(text.split())
