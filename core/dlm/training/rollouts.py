"""Rollouts: the prompts of a step become answers, rewards, advantages (GRPO groups) and the batches of an update."""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from time import perf_counter

import attrs
import torch
from accelerate import Accelerator
from torch import Tensor

from dlm.config.rl_section import CurriculumStage
from dlm.config.sampling_settings import SamplingSettings
from dlm.data.batch import FILLER, Batch, StepBatch
from dlm.data.conversations.prompt_rows import PromptRows
from dlm.diffusion.forward_process import NoisedBatch
from dlm.training.answers import Answer, Answering, Judge
from dlm.training.processes import waiting_for
from dlm.training.value_model import ValueModel, values_of
from dlm_plugins import Advantage, AdvantageRequest

NUM_SAMPLES = 3
"""Answers of a step that are logged."""
_ROUNDING = 1e-12
"""Of a variance, as a share of the mean square."""


@attrs.frozen(kw_only=True, eq=False)
class Rollout:
    """What this rank learns from in a step: micro-batches of answers, the same number on every rank."""

    batches: Sequence[Batch]
    """Of prompts with answers, (B, L). What was written is eligible; what was not is a mask that stays one."""
    advantages: Sequence[Tensor]
    """(B, L) float32 for each batch."""
    group_advantages: Sequence[Tensor]
    """(B, G) float32 for each batch."""
    states: Sequence[NoisedBatch]
    """What a value model learns from, of all answers; none where there is no such model."""
    samples: Sequence[Mapping[str, object]]
    """The first few answers, with what they are worth."""
    num_answers: int
    """Of all ranks, those that are left out included."""
    figures: Mapping[str, float | None]
    """Over all ranks."""
    seconds: Mapping[str, float]


@attrs.frozen(kw_only=True)
class Rollouts:
    """Makes the batches of a step from its prompts."""

    accelerator: Accelerator
    answering: Answering
    judge: Judge
    rows: PromptRows
    advantage: Advantage
    settings: SamplingSettings
    curriculum: Sequence[CurriculumStage]
    group_size: int
    """G."""
    batch_size: int
    """Answers of a micro-batch."""
    skip_even_groups: bool
    mask_overlong: bool
    blocks_from_start: bool
    """Whether attention counts blocks from the start of the prompt."""
    pad_id: int
    seed: int
    value_model: ValueModel | None = None

    def __call__(self, step_batch: StepBatch, step: int) -> Rollout:
        """Let the model answer G times each, judge and compare the answers, and deal them out."""
        started = perf_counter()
        answers, index = self.answering.alone(lambda: self._answers(step_batch, step))
        answered = perf_counter()
        rewards, scores = self.judge(answers)
        judged = perf_counter()
        length, num_answers = max((len(each.ids) for each in answers), default=1), step_batch.num_rows * self.group_size
        values, states = None, []
        if self.value_model is not None:
            batches, dealt = self._batches(range(len(answers)), answers, index, length)
            worth = [_taken(rewards[:, None], torch.tensor(numbers))[:, 0] for numbers in dealt]
            states = self.value_model.expect(batches, worth, step, num_answers)
            values = torch.cat([values_of(each, batch) for each, batch in zip(states, batches, strict=True)])
        advantage = self._advantages(rewards, answers, length, values)
        has_signal = (advantage != 0).any(dim=1).view(-1, self.group_size).any(dim=1)  # (P,)
        places = self._used(has_signal, answers).nonzero()[:, 0].tolist()
        batches, dealt = self._batches(places, answers, index, length)
        chosen = [torch.tensor(numbers) for numbers in dealt]
        groups = _in_groups(advantage, answers, self.group_size)
        return Rollout(
            batches=batches,
            advantages=[_taken(advantage, each) for each in chosen],
            group_advantages=[_taken(groups, each) for each in chosen],
            states=states,
            samples=_samples(answers, rewards, advantage),
            num_answers=num_answers,
            figures=self._figures(answers, rewards, scores, has_signal),
            seconds={"rollout_seconds": answered - started, "reward_seconds": judged - answered},
        )

    def _answers(self, step_batch: StepBatch, step: int) -> tuple[list[Answer], list[int]]:
        """The answers of this rank, those to a prompt side by side, and their numbers in the step."""
        settings, answers, index = self._settings(step), [], []
        for batch in step_batch.micro_batches:
            real = [row for row in batch.row_index.tolist() if row != FILLER]
            prompts = [self.rows.prompts[step_batch.row_ids[row]] for row in real for _ in range(self.group_size)]
            keys = [row * self.group_size + each for row in real for each in range(self.group_size)]
            answers += self.answering(prompts, keys, settings)
            index += keys
        return answers, index

    def _settings(self, step: int) -> SamplingSettings:
        """Of this step: its seed, and the lengths of its stage."""
        digest = blake2b(f"rollout:{self.seed}:{step}".encode(), digest_size=8).digest()
        settings = attrs.evolve(self.settings, seed=int.from_bytes(digest, "little") >> 1)
        stage = next((each for each in reversed(self.curriculum) if each.step <= step), None)
        if stage is None:
            return settings
        block_length = stage.block_length or settings.block_length
        if block_length is not None:
            block_length = min(block_length, stage.gen_length)
        return attrs.evolve(settings, gen_length=stage.gen_length, block_length=block_length)

    def _advantages(self, rewards: Tensor, answers: Sequence[Answer], length: int, values: Tensor | None) -> Tensor:
        """(B, L) float32: 0 where nothing was written."""
        if not answers:
            return torch.zeros(0, length)
        steps = _stacked([answer.committed_step for answer in answers], length, -1)
        values = None if values is None else values[: len(answers)]
        request = AdvantageRequest(rewards=rewards.view(-1, self.group_size), values=values, committed_step=steps)
        found = self.advantage.advantage(request)
        return torch.where(steps >= 0, found if found.ndim == 2 else found[:, None], 0.0)

    def _used(self, has_signal: Tensor, answers: Sequence[Answer]) -> Tensor:
        """(B,) bool: answers that are trained."""
        used = torch.ones(len(answers), dtype=torch.bool)
        if self.skip_even_groups:
            used = has_signal.repeat_interleave(self.group_size)
        if self.mask_overlong:
            used &= torch.tensor([answer.ended for answer in answers], dtype=torch.bool)
        return used

    def _batches(
        self, places: Sequence[int], answers: Sequence[Answer], index: Sequence[int], length: int
    ) -> tuple[list[Batch], list[list[int]]]:
        """Micro-batches of the answers at ``places``, and which are in which."""
        dealt = self._dealt(places)
        chosen = ([None if n == FILLER else answers[n] for n in numbers] for numbers in dealt)
        return [self._batch(each, numbers, index, length) for each, numbers in zip(chosen, dealt, strict=True)], dealt

    def _dealt(self, places: Sequence[int]) -> list[list[int]]:
        """Micro-batches of answers, filled up; as many of them as the rank with the most needs, at least one."""
        number = -(-len(places) // self.batch_size)
        with waiting_for(self.accelerator, "the others' answers and their rewards"):
            most = int(self.accelerator.gather(torch.tensor([number], device=self.accelerator.device)).max())
        whole = [*places, *[FILLER] * (max(most, 1) * self.batch_size - len(places))]
        return [whole[start : start + self.batch_size] for start in range(0, len(whole), self.batch_size)]

    def _batch(
        self, answers: Sequence[Answer | None], numbers: Sequence[int], index: Sequence[int], length: int
    ) -> Batch:
        """(B, L), padded on the right; None is a row of padding."""
        nothing = torch.zeros(0, dtype=torch.long)
        steps = _stacked([nothing if each is None else each.committed_step for each in answers], length, -1)
        real = torch.tensor([0 if each is None else len(each.ids) for each in answers])[:, None]
        start = torch.tensor([0 if each is None else len(each.prompt.ids) for each in answers])[:, None]
        column = torch.arange(length)
        is_real, written = column < real, (steps >= 0).sum(dim=1, keepdim=True)
        return Batch(
            input_ids=_stacked([nothing if each is None else each.ids for each in answers], length, self.pad_id),
            document_id=torch.where(is_real, 0, -1),
            position=torch.where(is_real, column, 0),
            eligible=steps >= 0,
            answer_start=torch.where(is_real, 0 if self.blocks_from_start else start, 0),
            answer_length=torch.where(is_real, written, 0),
            row_index=torch.tensor([FILLER if number == FILLER else index[number] for number in numbers]),
            isolate_documents=False,
            committed_step=steps,
        )

    def _figures(
        self, answers: Sequence[Answer], rewards: Tensor, scores: Tensor, has_signal: Tensor
    ) -> dict[str, float | None]:
        """Over the answers of all ranks."""
        rewards = rewards.double()  # so that equal ones have no spread
        grouped = rewards.view(-1, self.group_size)
        even = (grouped == grouped[:, :1]).all(dim=1)
        sums = [
            float(len(answers)),
            float(rewards.sum()),
            float(rewards.square().sum()),
            float(self.judge.are_right(rewards).sum()),
            float(sum(answer.num_tokens for answer in answers)),
            float(sum(not answer.ended for answer in answers)),
            float(len(grouped)),
            float(even.sum()),
            float(has_signal.sum()),
            *scores.sum(dim=0).tolist(),
        ]
        device = self.accelerator.device
        exact = torch.float32 if device.type == "mps" else torch.float64
        with waiting_for(self.accelerator, "the others' rewards"):
            summed = self.accelerator.reduce(torch.tensor(sums, dtype=exact, device=device), reduction="sum").tolist()
        count, total, squares, right, tokens, endless, groups, num_even, num_signal, *by_reward = summed
        mean = total / max(count, 1)
        variance = squares - count * mean**2
        return {
            "reward": mean,
            "reward_std": 0.0 if variance <= _ROUNDING * squares else (variance / count) ** 0.5,
            "right": right / max(count, 1),
            "answer_length": tokens / max(count, 1),
            "without_end": endless / max(count, 1),
            "even_groups": num_even / max(groups, 1),
            "groups_with_signal": num_signal,
            **{f"reward_{name}": each / max(count, 1) for name, each in zip(self._names(), by_reward, strict=True)},
        }

    def _names(self) -> list[str]:
        """Of the rewards, told apart by number where one comes twice."""
        names = [_snake(type(each.reward).__name__) for each in self.judge.rewards]
        return [name if names.count(name) == 1 else f"{name}_{place}" for place, name in enumerate(names)]


def _snake(name: str) -> str:
    """``ExactReward`` is ``exact``."""
    return "".join(f"_{each.lower()}" if each.isupper() else each for each in name.removesuffix("Reward")).strip("_")


def _in_groups(advantage: Tensor, answers: Sequence[Answer], group_size: int) -> Tensor:
    """(B, G): the mean advantages of the answers to the same prompt as each."""
    written = torch.tensor([max(int((answer.committed_step >= 0).sum()), 1) for answer in answers])
    means = (advantage.sum(dim=1) / written).view(-1, group_size) if answers else torch.zeros(0, group_size)
    return means.repeat_interleave(group_size, dim=0)


def _samples(answers: Sequence[Answer], rewards: Tensor, advantage: Tensor) -> list[dict[str, object]]:
    """What is logged of the first answers; the advantage is the mean over the tokens of each."""
    return [
        {
            "prompt": answer.prompt.text,
            "text": answer.text,
            "reward": float(reward),
            "advantage": float(row.sum() / (answer.committed_step >= 0).sum().clamp(min=1)),
        }
        for answer, reward, row in zip(answers[:NUM_SAMPLES], rewards, advantage, strict=False)
    ]


def _taken(values: Tensor, places: Tensor) -> Tensor:
    """The rows at ``places``; zeros where it is a filler."""
    if not len(values):
        return values.new_zeros(len(places), values.shape[1])
    return torch.where((places == FILLER)[:, None], 0.0, values[places.clamp(min=0)])


def _stacked(rows: Sequence[Tensor], length: int, fill: int) -> Tensor:
    """(B, length) int64, padded on the right."""
    stacked = torch.full((len(rows), length), fill)
    for line, row in zip(stacked, rows, strict=True):
        line[: len(row)] = row
    return stacked
