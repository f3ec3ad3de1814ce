"""Sampling with texts in and out: padding on the left, ends of text (EOS), unused ids, infill of a passage."""

from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from dlm.config.sampling_settings import SamplingSettings
from dlm.model.tokenizer import num_ids
from dlm.sampling.api import denoise
from dlm.sampling.arguments import settings_of
from dlm.sampling.prompts import prompt_ids, rendering_of
from dlm.sampling.resolve import resolve


@attrs.frozen(kw_only=True)
class Completion:
    """A prompt and what the model wrote after it."""

    prompt: str
    text: str
    """Up to the first end of text, without special tokens."""
    ids: tuple[int, ...]
    """All generated ids."""
    num_forwards: int

    def __str__(self) -> str:
        """One line for people."""
        return f"{self.prompt!r} -> {self.text!r}"

    @property
    def record(self) -> dict[str, object]:
        """What a run logs of it."""
        return {"prompt": self.prompt, "text": self.text}


def complete_texts(model: Any, tokenizer: Any, prompts: Sequence[str], settings: SamplingSettings) -> list[Completion]:
    """Continue each prompt, all of them in one batch; a model trained on conversations answers it.

    Args:
        model: as for :func:`dlm.sampling.generate`.
        tokenizer: the model's.
        prompts: texts; an empty one is generated from nothing.
        settings: how they are sampled.

    Raises:
        UserInputError: a prompt that does not fit, or a setting that does not.
    """
    if not prompts:
        return []
    input_ids, attention_mask = _batch_of(model, tokenizer, prompts, next(model.parameters()).device)
    settings = for_tokenizer(settings, model, tokenizer)
    *_, state = denoise(model, input_ids, settings, attention_mask=attention_mask)
    ends = ends_of(settings, model, tokenizer)
    return [
        Completion(prompt=prompt, text=text_of(tokenizer, ids, ends), ids=tuple(ids), num_forwards=state.num_forwards)
        for prompt, ids in zip(prompts, state.sequences[:, input_ids.shape[1] :].tolist(), strict=True)
    ]


def check_prompts(model: Any, tokenizer: Any, prompts: Sequence[str], settings: SamplingSettings) -> None:
    """Refuse what :func:`complete_texts` would refuse; the model is not run.

    Raises:
        UserInputError: a prompt that does not fit, or a setting that does not.
    """
    if prompts:
        input_ids, _ = _batch_of(model, tokenizer, prompts, torch.device("cpu"))
        resolve(model, input_ids, for_tokenizer(settings, model, tokenizer), None)


def _batch_of(model: Any, tokenizer: Any, prompts: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor]:
    rendering = rendering_of(model.config, tokenizer)
    return pad_left([prompt_ids(tokenizer, prompt, rendering) for prompt in prompts], pad_id_of(tokenizer), device)


def fill_passage(model: Any, tokenizer: Any, ids: Tensor, masked: Tensor) -> Tensor:
    """Let the model write the masked positions of a passage, (L,) int64 with ``masked`` (L,) bool; returns (L,) ids.

    One token a step. What stands under the mask is not looked at.
    """
    device = next(model.parameters()).device
    masked = masked.to(device)
    passage = torch.where(masked, model.config.mask_token_id, ids.to(device))
    if not bool(masked.any()):
        return passage
    settings = for_tokenizer(settings_of({"gen_length": 0, "eos": "free"}), model, tokenizer)
    *_, state = denoise(model, passage[None], settings)
    return state.sequences[0]


def for_tokenizer(settings: SamplingSettings, model: Any, tokenizer: Any) -> SamplingSettings:
    """The settings with what the tokenizer knows: which ids end a text, and which stand for none."""
    return attrs.evolve(
        settings,
        eos_id=ends_of(settings, model, tokenizer),
        suppress_tokens=(*settings.suppress_tokens, *unused_ids(model, num_ids(tokenizer))),
    )


def pad_left(rows: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows of different lengths as ids (B, P) and attention mask (B, P), padded on the left."""
    length = max(map(len, rows))
    ids = [[pad_id] * (length - len(row)) + list(row) for row in rows]
    mask = [[0] * (length - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, dtype=torch.long, device=device), torch.tensor(mask, dtype=torch.long, device=device)


def pad_id_of(tokenizer: Any) -> int:
    """An id to pad with; the attention mask hides it, so that any will do."""
    for candidate in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if candidate is not None:
            return int(candidate)
    return 0


def ends_of(settings: SamplingSettings, model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Ids that end a text that is sampled: those of the settings, else the tokenizer's and the model's."""
    if settings.eos_id is None:
        return end_ids(model, tokenizer)
    return (settings.eos_id,) if isinstance(settings.eos_id, int) else tuple(settings.eos_id)


def end_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Ids that end a text: the tokenizer's and the model's."""
    own = getattr(model.config, "eos_token_id", None)
    found = [tokenizer.eos_token_id, *(own if isinstance(own, Sequence) else [own])]
    num_rows = model.config.get_text_config().vocab_size
    return tuple(dict.fromkeys(int(each) for each in found if each is not None and each < num_rows))


def unused_ids(model: Any, num_used: int) -> tuple[int, ...]:
    """Rows of the embedding beyond the tokenizer: they stand for no text."""
    return tuple(range(num_used, model.config.get_text_config().vocab_size))


def text_of(tokenizer: Any, ids: Sequence[int], ends: Sequence[int]) -> str:
    """The text of ids up to the first that ends it, without special tokens."""
    cut = next((index for index, each in enumerate(ids) if each in ends), len(ids))
    text: str = tokenizer.decode(list(ids[:cut]), skip_special_tokens=True)
    return text
