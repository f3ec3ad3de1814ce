"""A model, its tokenizer and settings, ready to write texts."""

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import attrs
import torch

from dlm.data.conversations.rendering import Rendering
from dlm.errors import UserInputError
from dlm.model.loading import load_model
from dlm.model.tokenizer import load_tokenizer, num_ids
from dlm.sampling.api import GenerateState, iter_generate
from dlm.sampling.device import choose_device, dtype_named
from dlm.sampling.prompts import infill_ids, longest, prompt_ids, rendering_of
from dlm.sampling.settings import mask_id_of
from dlm.sampling.texts import end_ids, pad_id_of, pad_left, text_of, unused_ids

DEFAULT_GEN_LENGTH = 128


@attrs.frozen(kw_only=True)
class Job:
    """One text to be written."""

    prompt: str
    ids: tuple[int, ...]
    is_infill: bool
    sample: int
    """Which of the samples of its prompt, from 0."""
    key: int
    """Number of the job among all: its randomness is keyed by it."""


@attrs.frozen(kw_only=True, eq=False)
class Batch:
    """Jobs that go through the model together."""

    jobs: tuple[Job, ...]
    settings: Mapping[str, Any]
    """Arguments of :func:`dlm.sampling.generate`, with nothing left open."""


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


@attrs.frozen(kw_only=True, eq=False)
class Session:
    """Writes texts. Made by :meth:`open`."""

    model: Any
    tokenizer: Any
    settings: Mapping[str, Any]
    """Arguments of :func:`dlm.sampling.generate`; without ``gen_length`` and ``steps`` where they were left open."""
    seed: int
    rendering: Rendering | None
    """How prompts are written for a model trained on conversations; None: as they are."""
    mask_id: int
    eos_ids: tuple[int, ...]

    @classmethod
    def open(
        cls,
        name_or_path: str,
        settings: Mapping[str, Any],
        *,
        eos: str = "stop",
        seed: int = 0,
        dtype: str | None = None,
        device: str | None = None,
        trust_remote_code: bool = False,
    ) -> "Session":
        """Load a trained folder.

        Args:
            name_or_path: of the model with its tokenizer.
            settings: arguments of :func:`dlm.sampling.generate`.
            eos: ``stop`` at an end of text, go on (``free``), never write one (``suppress``), or write it ``late``.
            seed: of the randomness.
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
        ends = end_ids(model, tokenizer)
        return cls(
            model=model.to(place),
            tokenizer=tokenizer,
            settings={**settings, **_END_POLICIES[eos](ends, unused_ids(model, num_ids(tokenizer)))},
            seed=seed,
            rendering=rendering_of(model.config, tokenizer),
            mask_id=mask_id_of(model.config, None),
            eos_ids=ends,
        )

    def jobs(self, prompts: Sequence[str], infills: Sequence[str] = (), num_samples: int = 1) -> list[Job]:
        """One job for each sample of each text.

        A model trained on conversations answers prompts, as the first turn of one; any other continues them.

        Raises:
            UserInputError: a prompt with a mask, an infill without.
        """
        texts = [(text, prompt_ids(self.tokenizer, text, self.rendering), False) for text in prompts]
        texts += [(text, infill_ids(self.tokenizer, text, self.mask_id), True) for text in infills]
        return [
            Job(prompt=text, ids=tuple(ids), is_infill=is_infill, sample=sample, key=index * num_samples + sample)
            for index, (text, ids, is_infill) in enumerate(texts)
            for sample in range(num_samples)
        ]

    def batches(self, jobs: Sequence[Job], batch_size: int) -> list[Batch]:
        """Jobs that go through the model together: prompts among themselves, an infill with its own samples only.

        What was left open is settled for all prompts alike, so that the size of a batch changes no text.

        Raises:
            UserInputError: a prompt that leaves no room for an answer.
        """
        batches = []
        for _, group in groupby(jobs, key=lambda job: job.prompt if job.is_infill else None):
            members = list(group)
            settings = self._settled(members)
            batches += [
                Batch(jobs=tuple(members[start : start + batch_size]), settings=settings)
                for start in range(0, len(members), batch_size)
            ]
        return batches

    def _settled(self, jobs: Sequence[Job]) -> dict[str, Any]:
        settings = dict(self.settings)
        if any(job.is_infill for job in jobs):
            settings.setdefault("gen_length", 0)
        settings.setdefault("gen_length", self._gen_length(longest([job.ids for job in jobs])))
        num_masks = max(job.ids.count(self.mask_id) for job in jobs) + settings["gen_length"]
        settings.setdefault("steps", max(num_masks, 1))
        return settings

    def states(self, batch: Batch) -> Iterator[GenerateState]:
        """Write the texts of a batch, step by step."""
        device = next(self.model.parameters()).device
        input_ids, attention_mask = pad_left([job.ids for job in batch.jobs], pad_id_of(self.tokenizer), device)
        return iter_generate(
            self.model,
            input_ids,
            attention_mask=attention_mask,
            seed=self.seed,
            row_keys=torch.tensor([job.key for job in batch.jobs]),
            **batch.settings,
        )

    def results(self, batch: Batch, state: GenerateState) -> list[Result]:
        """The texts of a batch from its last state."""
        width = longest([job.ids for job in batch.jobs])
        return [
            self._result(job, row[width - len(job.ids) :], int((steps >= 0).sum()))
            for job, row, steps in zip(batch.jobs, state.sequences.tolist(), state.committed_step, strict=True)
        ]

    def _result(self, job: Job, ids: list[int], num_tokens: int) -> Result:
        written = ids if job.is_infill else ids[len(job.ids) :]
        text = text_of(self.tokenizer, written, () if job.is_infill else self.eos_ids)
        return Result(prompt=job.prompt, sample=job.sample, text=text, ids=tuple(written), num_tokens=num_tokens)

    def room(self) -> int:
        """Tokens that a prompt may have at most, with the answer still fitting into the model's context."""
        context = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if context is None:
            return sys.maxsize
        return int(context) - int(self.settings.get("gen_length", min(DEFAULT_GEN_LENGTH, context // 2)))

    def _gen_length(self, prompt_length: int) -> int:
        context = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if context is None:
            return DEFAULT_GEN_LENGTH
        if prompt_length >= context:
            raise UserInputError(
                f"the longest prompt has {prompt_length} tokens and leaves no room in the model's context of {context} "
                "tokens: shorten it"
            )
        return min(DEFAULT_GEN_LENGTH, int(context) - prompt_length)


_END_POLICIES: Mapping[str, Callable[[tuple[int, ...], tuple[int, ...]], dict[str, Any]]] = {
    "stop": lambda ends, unused: {"eos_id": ends, "stop_at_eos": bool(ends), "suppress_tokens": unused},
    "free": lambda ends, unused: {"suppress_tokens": unused},
    "suppress": lambda ends, unused: {"suppress_tokens": (*unused, *ends)},
    "late": lambda ends, unused: {
        "eos_id": ends,
        "stop_at_eos": bool(ends),
        "eos_penalty": math.inf if ends else 0.0,
        "suppress_tokens": unused,
    },
}
"""What becomes of an end of text: arguments of :func:`dlm.sampling.generate`, from its ids and the ids without text."""
