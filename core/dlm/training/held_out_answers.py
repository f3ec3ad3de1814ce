"""Held-out prompts of learning from rewards: how often they are answered right, greedily and as rollouts are drawn."""

from collections.abc import Iterator, Sequence

import attrs
import torch
from accelerate import Accelerator

from dlm.config.sampling_settings import SamplingSettings
from dlm.data.batch import FILLER
from dlm.data.conversations.prompt_rows import PromptRows
from dlm.sampling.arguments import settings_of
from dlm.sampling.texts import Completion
from dlm.training.answers import Answer, Answering, Judge
from dlm.training.console import percent
from dlm.training.engine import Engine
from dlm.training.evaluation import Sampler
from dlm.training.model_and_noise import EVALUATION_SEED
from dlm.training.output_folder import METRICS, SAMPLES
from dlm.training.processes import waiting_for
from dlm.training.run_data import EvaluationBatches

NUM_SHOWN = 3


@attrs.frozen(kw_only=True)
class HeldOutFigures:
    """Means over held-out prompts."""

    greedy_reward: float
    greedy_right: float
    drawn_reward: float
    drawn_right: float

    @property
    def loss(self) -> float:
        """What the best checkpoint has least of."""
        return -self.greedy_reward

    @property
    def headline(self) -> str:
        """One line for people."""
        return (
            f"held-out prompts answered right: {percent(self.greedy_right)} greedily, {percent(self.drawn_right)} drawn"
        )

    def quality(self) -> dict[str, object]:
        """For the log of metrics."""
        return attrs.asdict(self)


@attrs.frozen(kw_only=True)
class JudgedCompletion:
    """A held-out prompt and the greedy answer."""

    prompt: str
    text: str
    reward: float

    def __str__(self) -> str:
        """One line for people."""
        return f"{self.prompt!r} -> {self.text!r}  (reward {self.reward})"

    @property
    def record(self) -> dict[str, object]:
        """For the log of samples."""
        return attrs.asdict(self)


@attrs.define(kw_only=True)
class HeldOutAnswers:
    """Lets the model answer the held-out prompts, the same way at every evaluation of a run."""

    accelerator: Accelerator
    answering: Answering
    judge: Judge
    batches: EvaluationBatches
    settings: SamplingSettings
    """Of the rollouts."""
    seed: int
    _shown: list[JudgedCompletion] = attrs.field(factory=list, init=False)

    @property
    def summary(self) -> str:
        """How many prompts of how many."""
        return self.batches.summary()

    def __call__(self) -> HeldOutFigures:
        """Means over the prompts of all processes."""
        drawn = attrs.evolve(self.settings, seed=self.seed ^ EVALUATION_SEED)
        # As dlm generate decodes, unless it is told otherwise.
        greedy = attrs.evolve(drawn, temperature=0.0, remasking=settings_of({}).remasking)
        sums = self.answering.alone(lambda: [*self._sums(greedy, shows=True), *self._sums(drawn)])
        summed = torch.tensor(sums, device=self.accelerator.device)
        with waiting_for(self.accelerator, "the others' answers to held-out prompts"):
            count, *totals = self.accelerator.reduce(summed, reduction="sum").tolist()
        reward, right, _, drawn_reward, drawn_right = (total / max(count, 1) for total in totals)
        return HeldOutFigures(
            greedy_reward=reward, greedy_right=right, drawn_reward=drawn_reward, drawn_right=drawn_right
        )

    def shown(self) -> Sequence[JudgedCompletion]:
        """The first prompts with their greedy answers at the last evaluation; on the main process."""
        return self._shown[:NUM_SHOWN]

    def _sums(self, settings: SamplingSettings, *, shows: bool = False) -> list[float]:
        """Of this process's prompts: their number, the rewards, and how many answers were right."""
        rows, shape = self.batches.loader.rows, self.batches.loader.shape
        assert isinstance(rows, PromptRows)
        count, reward, right = 0, 0.0, 0
        if shows:
            self._shown = []
        for step in self.batches.loader.one_epoch():
            first = step.epoch_batch * shape.rows_per_step
            for batch in step.micro_batches:
                numbers = [first + row for row in batch.row_index.tolist() if row != FILLER]
                answers = self.answering([rows.prompts[number] for number in numbers], numbers, settings)
                rewards, _ = self.judge(answers)
                count, reward = count + len(answers), reward + float(rewards.sum())
                right += int(self.judge.are_right(rewards).sum())
                if shows and len(self._shown) < NUM_SHOWN:
                    self._shown += map(_completion, answers, rewards.tolist())
        return [float(count), reward, float(right)]


def _completion(answer: Answer, reward: float) -> JudgedCompletion:
    return JudgedCompletion(prompt=answer.prompt.text, text=answer.text, reward=reward)


@attrs.frozen(kw_only=True)
class PromptSampler:
    """Continues the prompts of the run file, and shows the held-out ones."""

    sampler: Sampler
    held_out: HeldOutAnswers | None

    def __call__(self) -> Sequence[Completion | JudgedCompletion]:
        """After an evaluation."""
        return (*self.sampler(), *(() if self.held_out is None else self.held_out.shown()))


def closing_words(engine: Engine) -> Iterator[str]:
    """What was learned: held-out accuracy before and after, and a few prompts answered before and after."""
    folder = engine.saver.folder
    lines = [line for line in folder.read(METRICS) if isinstance(line, dict) and line.get("split") == "eval"]
    if not lines:
        return
    first, last = lines[0], lines[-1]
    for name, how in (("greedy_right", "greedily"), ("drawn_right", "drawn as the rollouts are")):
        before, after = percent(first.get(name)), percent(last.get(name))
        yield f"held-out prompts answered right {how}: {before} at step {first['step']}, {after} at step {last['step']}"
    samples = [
        line for line in folder.read(SAMPLES) if isinstance(line, dict) and "reward" in line and "split" not in line
    ]
    shown = ([line for line in samples if line["step"] == each["step"]] for each in (first, last))
    for old, new in zip(*shown, strict=False):
        yield f"  {old['prompt']!r} -> {old['text']!r} before, {new['text']!r} after ({new['reward']:g})"
