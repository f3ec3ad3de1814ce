"""A loaded model with tokenizer and settings that writes texts for the commands: tasks to batches to results."""

import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import attrs
import torch

from dlm.config.sampling_settings import SamplingSettings
from dlm.data.conversations.rendering import Rendering
from dlm.model.load_model import load_model
from dlm.model.tokenizer import load_tokenizer
from dlm.sampling.api import GenerateState, denoise
from dlm.sampling.device import choose_device, dtype_named
from dlm.sampling.prompts import infill_ids, longest, prompt_ids, rendering_of
from dlm.sampling.resolve import DEFAULT_GEN_LENGTH, context_of, gen_length_of, mask_id_of
from dlm.sampling.texts import ends_of, for_tokenizer, pad_id_of, pad_left, text_of


@attrs.frozen(kw_only=True)
class TextTask:
    """One text to be written."""

    prompt: str
    ids: tuple[int, ...]
    is_infill: bool
    sample: int
    """Which of the samples of its prompt, from 0."""
    key: int
    """Number of the task among all: its randomness is keyed by it."""


@attrs.frozen(kw_only=True, eq=False)
class TextBatch:
    """Jobs that go through the model together."""

    tasks: tuple[TextTask, ...]
    settings: SamplingSettings
    """The same for all batches of a call, so that the size of a batch changes no text."""


@attrs.frozen(kw_only=True)
class Result:
    """A text that was written."""

    prompt: str
    sample: int
    text: str
    """What follows the prompt; of an infill, the whole text."""
    ids: tuple[int, ...]
    """The ids behind ``text``, special tokens included."""
    num_tokens: int
    """Tokens that were decoded."""
    prompt_ids: tuple[int, ...] = ()
    """The ids that ``ids`` follow; none for an infill."""
    answer_ids: tuple[int, ...] = ()
    """``ids`` up to the first end of text, which is included; none for an infill."""
    step_map: tuple[int, ...] = ()
    """The denoising step at which each of ``answer_ids`` was written; -1 where none did."""


@attrs.frozen(kw_only=True, eq=False)
class Session:
    """Writes texts. Made by :meth:`open`."""

    model: Any
    tokenizer: Any
    settings: SamplingSettings
    rendering: Rendering | None
    """How prompts are written for a model trained on conversations; None: as they are."""
    mask_id: int
    eos_ids: tuple[int, ...]

    @classmethod
    def open(
        cls,
        name_or_path: str,
        settings: SamplingSettings,
        *,
        dtype: str | None = None,
        device: str | None = None,
        trust_remote_code: bool = False,
    ) -> "Session":
        """Load a trained folder.

        Args:
            name_or_path: of the model with its tokenizer.
            settings: how texts are sampled.
            dtype: name of a dtype of torch; None: as saved.
            device: None: the accelerator, if there is one.
            trust_remote_code: whether code from the folder may run.

        Raises:
            ModelError: no model there that can be sampled from.
            UserInputError: an unknown dtype or device.
        """
        place = choose_device(device)
        model: Any = load_model(name_or_path, dtype=dtype_named(dtype), trust_remote_code=trust_remote_code)
        tokenizer = load_tokenizer(name_or_path, trust_remote_code=trust_remote_code)
        return cls(
            model=model.to(place),
            tokenizer=tokenizer,
            settings=for_tokenizer(settings, model, tokenizer),
            rendering=rendering_of(model.config, tokenizer),
            mask_id=mask_id_of(model.config, settings.mask_id),
            eos_ids=ends_of(settings, model, tokenizer),
        )

    def tasks(self, prompts: Sequence[str], infills: Sequence[str] = (), num_samples: int = 1) -> list[TextTask]:
        """One task for each sample of each text.

        A model trained on conversations answers prompts, as the first turn of one; any other continues them.

        Raises:
            UserInputError: a prompt with a mask, an infill without.
        """
        texts = [(text, prompt_ids(self.tokenizer, text, self.rendering), False) for text in prompts]
        texts += [(text, infill_ids(self.tokenizer, text, self.mask_id), True) for text in infills]
        return [
            TextTask(prompt=text, ids=tuple(ids), is_infill=is_infill, sample=sample, key=index * num_samples + sample)
            for index, (text, ids, is_infill) in enumerate(texts)
            for sample in range(num_samples)
        ]

    def batches(self, tasks: Sequence[TextTask], batch_size: int) -> list[TextBatch]:
        """Jobs that go through the model together: prompts among themselves, an infill with its own samples only.

        What was left open is settled for all prompts alike, so that the size of a batch changes no text.

        Raises:
            UserInputError: a prompt that leaves no room for an answer.
        """
        batches = []
        for _, group in groupby(tasks, key=lambda task: task.prompt if task.is_infill else None):
            members = list(group)
            settings = self._settled(members)
            batches += [
                TextBatch(tasks=tuple(members[start : start + batch_size]), settings=settings)
                for start in range(0, len(members), batch_size)
            ]
        return batches

    def _settled(self, tasks: Sequence[TextTask]) -> SamplingSettings:
        gen_length = self.settings.gen_length
        if gen_length is None and any(task.is_infill for task in tasks):
            gen_length = 0
        gen_length = gen_length_of(self.model.config, gen_length, longest([task.ids for task in tasks]))
        num_masks = max(task.ids.count(self.mask_id) for task in tasks) + gen_length
        return attrs.evolve(self.settings, gen_length=gen_length, steps=self.settings.steps or max(num_masks, 1))

    def states(self, batch: TextBatch) -> Iterator[GenerateState]:
        """Write the texts of a batch, step by step."""
        device = next(self.model.parameters()).device
        input_ids, attention_mask = pad_left([task.ids for task in batch.tasks], pad_id_of(self.tokenizer), device)
        keys = torch.tensor([task.key for task in batch.tasks])
        return denoise(self.model, input_ids, batch.settings, attention_mask=attention_mask, row_keys=keys)

    def results(self, batch: TextBatch, state: GenerateState) -> list[Result]:
        """The texts of a batch from its last state."""
        width = longest([task.ids for task in batch.tasks])
        return [
            self._result(task, row[width - len(task.ids) :], steps[width - len(task.ids) :])
            for task, row, steps in zip(
                batch.tasks, state.sequences.tolist(), state.committed_step.tolist(), strict=True
            )
        ]

    def _result(self, task: TextTask, ids: list[int], steps: list[int]) -> Result:
        num_tokens = sum(step >= 0 for step in steps)
        if task.is_infill:
            text = text_of(self.tokenizer, ids, ())
            return Result(prompt=task.prompt, sample=task.sample, text=text, ids=tuple(ids), num_tokens=num_tokens)
        written, steps = ids[len(task.ids) :], steps[len(task.ids) :]
        end = next((place + 1 for place, each in enumerate(written) if each in self.eos_ids), len(written))
        return Result(
            prompt=task.prompt,
            sample=task.sample,
            text=text_of(self.tokenizer, written, self.eos_ids),
            ids=tuple(written),
            num_tokens=num_tokens,
            prompt_ids=task.ids,
            answer_ids=tuple(written[:end]),
            step_map=tuple(steps[:end]),
        )

    def room(self) -> int:
        """Tokens that a prompt may have at most, with the answer still fitting into the model's context."""
        context = context_of(self.model.config)
        if context is None:
            return sys.maxsize
        answer = self.settings.gen_length
        return context - (min(DEFAULT_GEN_LENGTH, context // 2) if answer is None else answer)
