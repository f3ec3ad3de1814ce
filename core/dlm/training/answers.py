"""Answers to prompts: sampled from the model that is trained, judged by rewards (rollouts, held-out prompts)."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import attrs
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dlm.config.rl_section import WeightedReward
from dlm.config.sampling_settings import SamplingSettings
from dlm.data.conversations.prompt_rows import Prompt
from dlm.errors import DataError
from dlm.sampling.api import denoise
from dlm.sampling.texts import ends_of, for_tokenizer, pad_id_of, pad_left, text_of
from dlm.training.sharding import lend_whole
from dlm_plugins import RewardItem, RewardRequest

T = TypeVar("T")

_ROUNDING = 1e-6
"""Of sums of weighted rewards, as a share."""


@attrs.frozen(kw_only=True, eq=False)
class Answer:
    """What was written after a prompt, on the host. T = prompt + gen_length positions."""

    prompt: Prompt
    text: str
    """Up to its end, without special tokens."""
    ids: Tensor
    """(T,) int64: the mask where nothing was written."""
    committed_step: Tensor
    """(T,) int64: -1 where it was given, and where nothing was written."""
    num_tokens: int
    """Written, up to the end of the text and with it."""
    ended: bool
    """Whether the end of the text was written."""

    @property
    def item(self) -> RewardItem:
        """What rewards look at."""
        start = len(self.prompt.ids)
        return RewardItem(
            prompt=self.prompt.text,
            answer=self.text,
            answer_ids=self.ids[start : start + self.num_tokens].tolist(),
            ended=self.ended,
            columns=self.prompt.values,
        )


@attrs.frozen(kw_only=True)
class Answering:
    """Lets the model answer. Its randomness is keyed by seed and row: no other answer matters."""

    accelerator: Accelerator
    model: PreTrainedModel
    objective: nn.Module
    """What was prepared for training, around the model."""
    tokenizer: PreTrainedTokenizerBase

    def alone(self, action: Callable[[], T]) -> T:
        """What ``action`` returns, in which each process answers its own prompts. All of them must call."""
        return lend_whole(self.objective, action)

    def __call__(self, prompts: Sequence[Prompt], keys: Sequence[int], settings: SamplingSettings) -> list[Answer]:
        """An answer to each prompt, all in one batch.

        Args:
            prompts: what is answered; there may be none.
            keys: of the randomness of each.
            settings: how they are sampled.
        """
        if not prompts:
            return []
        device = self.accelerator.device
        rows = [prompt.ids.tolist() for prompt in prompts]
        input_ids, attention_mask = pad_left(rows, pad_id_of(self.tokenizer), device)
        settings = for_tokenizer(settings, self.model, self.tokenizer)
        self.model.eval()
        with self.accelerator.autocast():
            *_, state = denoise(
                self.model,
                input_ids,
                settings,
                attention_mask=attention_mask,
                row_keys=torch.tensor(keys, device=device),
            )
        self.model.train()
        ids, steps = state.sequences.cpu(), state.committed_step.cpu()
        ends = ends_of(settings, self.model, self.tokenizer)
        paddings = [input_ids.shape[1] - len(row) for row in rows]
        return [
            self._answer(prompt, ids[row, padding:], steps[row, padding:], ends)
            for row, (prompt, padding) in enumerate(zip(prompts, paddings, strict=True))
        ]

    def _answer(self, prompt: Prompt, ids: Tensor, steps: Tensor, ends: Sequence[int]) -> Answer:
        start = len(prompt.ids)
        written = ids[start:][steps[start:] >= 0].tolist()
        end = next((index for index, each in enumerate(written) if each in ends), None)
        is_empty = (steps < 0) & (torch.arange(len(ids)) >= start)
        return Answer(
            prompt=prompt,
            text=text_of(self.tokenizer, written, ends),
            ids=ids.masked_fill(is_empty, int(self.model.config.mask_token_id)),
            committed_step=steps,
            num_tokens=len(written) if end is None else end + 1,
            ended=end is not None,
        )


@attrs.frozen(kw_only=True)
class Judge:
    """What answers are worth."""

    rewards: Sequence[WeightedReward]
    overlong_is_worthless: bool
    """Whether an answer without an end is worth 0, whatever the rewards say."""

    @property
    def best(self) -> float:
        """What an answer is worth that each reward of positive weight gives 1, and each other 0."""
        return sum(max(each.weight, 0.0) for each in self.rewards)

    def are_right(self, rewards: Tensor) -> Tensor:
        """Which of the rewards (B,) are as good as can be: (B,) bool."""
        return rewards >= self.best - _ROUNDING * max(self.best, 1.0)

    def __call__(self, answers: Sequence[Answer]) -> tuple[Tensor, Tensor]:
        """What each of B answers is worth, (B,) float32, and the K scores that were added up, (B, K).

        Raises:
            DataError: a row cannot be judged.
        """
        if not answers:
            return torch.zeros(0), torch.zeros(0, len(self.rewards))
        scores = torch.stack([self._scores(each, answers) for each in self.rewards], dim=1)
        total = scores @ torch.tensor([each.weight for each in self.rewards])
        if self.overlong_is_worthless:
            total = total * torch.tensor([float(answer.ended) for answer in answers])
        return total, scores

    def _scores(self, each: WeightedReward, answers: Sequence[Answer]) -> Tensor:
        name = type(each.reward).__name__
        try:
            scores = each.reward.score(RewardRequest(items=[answer.item for answer in answers])).float()
        except Exception as error:
            raise self._refused(each, answers, error) from error
        if scores.shape != (len(answers),):
            raise DataError(f"rl.rewards: {name} returned {tuple(scores.shape)} for {len(answers)} answers")
        wrong = (~scores.isfinite()).nonzero()[:, 0].tolist()
        if wrong:
            origin = answers[wrong[0]].prompt.origin
            raise DataError(f"rl.rewards: {name} says {scores[wrong[0]].item()} of an answer to {origin}, not a number")
        return scores

    def _refused(self, each: WeightedReward, answers: Sequence[Answer], error: Exception) -> DataError:
        """The first row that it cannot judge alone, or all of them."""
        where = ""
        for answer in answers:
            try:
                each.reward.score(RewardRequest(items=[answer.item]))
            except Exception as alone:
                where, error = f"{answer.prompt.origin}: ", alone
                break
        reason = " ".join(str(error).split()) or type(error).__name__
        return DataError(f"{where}rl.rewards: {type(each.reward).__name__} cannot judge the answer: {reason}")
