"""What a run prints at its beginning and at its end (sizes, first and last losses), and metrics lines read back."""

from collections.abc import Sequence
from typing import Literal

import attrs
import cattrs
import torch

from dlm.diffusion.sums import NUM_RATE_BINS
from dlm.model.body_and_head import num_parameters
from dlm.sampling.texts import fill_passage
from dlm.training.console import percent
from dlm.training.engine import Engine
from dlm.training.evaluation import Evaluation
from dlm.training.output_folder import METRICS, OutputFolder
from dlm.training.sharding import is_sharded, lend

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

    engine: Engine

    def opening(self, notes: Sequence[str]) -> None:
        """What runs, on what, for how long."""
        engine, data, say = self.engine, self.engine.data, self.engine.console.say
        model = engine.saver.objects.model
        for note in notes:
            say(note)
        num_all, num_trained = num_parameters(model)
        trained = "" if num_trained == num_all else f", of which {num_trained:,} are trained"
        say(f"data: {data.summary}")
        for note in (*data.notes, *data.origin):
            say(f"  {note}")
        if engine.evaluation is not None:
            say(f"evaluation: {engine.evaluation.summary}")
        say(
            f"model: {type(model).__name__}, {num_all:,} parameters{trained}, on {engine.accelerator.device}; "
            f"{engine.num_steps} steps of {data.loader.shape.rows_per_step} rows; writing to {engine.saver.folder.path}"
        )
        say(f"attention: {model.config._attn_implementation}")

        if engine.accelerator.num_processes > 1:
            say(f"parallel: {engine.parallel}")

    def closing(self) -> None:
        """What was learned."""
        if not self.engine.is_main:
            return
        say, folder = self.engine.console.say, self.engine.saver.folder
        if self.engine.closing_words is None:
            self._losses()
        else:
            for line in self.engine.closing_words(self.engine):
                say(line)
        say(f"the model is in {folder.final}; try it:")
        for command in self.engine.saver.objects.weights.usage(folder.final):
            say(f"  {command}")

    def _losses(self) -> None:
        """First and last losses, and what the model fills in."""
        say, folder = self.engine.console.say, self.engine.saver.folder
        found, damaged = evaluations(folder)
        if damaged:
            say(f"{folder.path / METRICS}: damaged, and left out here: line {_listed(damaged)}")
        if found:
            shown = (found[0], found[-1])
            say("eval loss: " + ", ".join(f"{each.loss_text} at step {each.step}" for each in shown))
            say("masked tokens guessed right, by mask rate:")
            width = 1 / NUM_RATE_BINS
            for number, accuracy in enumerate(found[-1].masked_accuracy_by_rate):
                bar = "#" * round(40 * (accuracy or 0.0))
                say(f"  {number * width:.1f}-{(number + 1) * width:.1f}  {percent(accuracy):>6}  {bar}")
            # A sharded model needs all processes, and this is the main one alone.
            if self.engine.saver.objects.model.config.noise_shows_mask and not is_sharded(self.engine.step.objective):
                self.passage()

    def passage(self) -> None:
        """Say one held-out passage with holes, filled in by the model."""
        assert isinstance(self.engine.evaluation, Evaluation)
        say, objects = self.engine.console.say, self.engine.saver.objects
        model, tokenizer = objects.model, objects.tokenizer
        batch = next(iter(self.engine.evaluation.batches))
        # Of the first rows the one with the most different tokens: rows of dashes and spaces show nothing.
        row = max(range(len(batch.input_ids)), key=lambda index: len(set(batch.input_ids[index].tolist())))
        ids = batch.input_ids[row][batch.document_id[row] >= 0]
        generator = torch.Generator().manual_seed(0)
        masked = torch.rand(len(ids), generator=generator) < PASSAGE_RATE
        model.eval()
        filled = lend(self.engine.step.objective, lambda: fill_passage(model, tokenizer, ids, masked)).cpu()
        right = int((filled == ids)[masked].sum())
        say(f"a passage it has not seen, {int(masked.sum())} of {len(ids)} tokens masked:")
        hole = torch.where(masked, torch.tensor(model.config.mask_token_id), ids)
        say(f"  masked: {self._text(hole)}")
        say(f"  filled: {self._text(filled)}   ({right} right)")
        say(f"  truth:  {self._text(ids)}")

    def _text(self, ids: torch.Tensor) -> str:
        objects = self.engine.saver.objects
        text = str(objects.tokenizer.decode(ids.tolist())).replace(str(objects.model.config.mask_token), "_")
        return " ".join(text.split())
