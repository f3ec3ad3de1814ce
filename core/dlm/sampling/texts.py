"""Sampling with texts in and out."""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from dlm.config import SamplingConfig
from dlm.sampling.api import generate


@attrs.frozen(kw_only=True)
class Completion:
    """A prompt and what the model wrote after it."""

    prompt: str
    text: str
    """Up to the first end-of-text token, without special tokens."""
    ids: tuple[int, ...]
    """All generated ids."""
    num_forwards: int


def complete_texts(
    model: Any, tokenizer: Any, prompts: Sequence[str], sampling: Mapping[str, Any] | SamplingConfig, seed: int = 0
) -> list[Completion]:
    """Continue each prompt, all of them in one batch.

    Args:
        model: as for :func:`dlm.sampling.generate`.
        tokenizer: the model's.
        prompts: texts; an empty one is generated from nothing.
        sampling: the section of a run file, or keyword arguments of :func:`dlm.sampling.generate`. Unless they say
            otherwise, decoding stops at the end of the text.
        seed: of the randomness.
    """
    if not prompts:
        return []
    device = next(model.parameters()).device
    rows = [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
    input_ids, attention_mask = pad_left(rows, pad_id_of(tokenizer), device)
    settings = dict(sampling) if isinstance(sampling, Mapping) else attrs.asdict(sampling, recurse=False)
    settings.setdefault("stop_at_eos", getattr(model.config, "eos_token_id", None) is not None)
    output = generate(model, input_ids, attention_mask=attention_mask, seed=seed, **settings)
    generated = output.sequences[:, input_ids.shape[1] :].tolist()
    return [
        Completion(prompt=prompt, text=text_of(tokenizer, ids), ids=tuple(ids), num_forwards=output.num_forwards)
        for prompt, ids in zip(prompts, generated, strict=True)
    ]


def fill_passage(
    model: Any, tokenizer: Any, ids: Tensor, masked: Tensor, sampling: Mapping[str, Any] | None = None, seed: int = 0
) -> Tensor:
    """Let the model write the masked positions of a passage, (L,) int64 with ``masked`` (L,) bool; returns (L,) ids.

    One token a step unless ``sampling`` says otherwise. What stands under the mask is not looked at.
    """
    device = next(model.parameters()).device
    masked = masked.to(device)
    mask_id = model.config.mask_token_id
    passage = torch.where(masked, mask_id, ids.to(device))
    if not bool(masked.any()):
        return passage
    settings = {"steps": int(masked.sum()), "block_length": len(passage), **(sampling or {}), "gen_length": 0}
    return generate(model, passage[None], seed=seed, **settings).sequences[0]


def pad_left(rows: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows of different lengths as ids (B, P) and attention mask (B, P), padded on the left."""
    length = max(map(len, rows))
    ids = [[pad_id] * (length - len(row)) + list(row) for row in rows]
    mask = [[0] * (length - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, dtype=torch.long, device=device), torch.tensor(mask, dtype=torch.long, device=device)


def pad_id_of(tokenizer: Any) -> int:
    """An id to pad with; the attention mask hides it, so any will do."""
    for candidate in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if candidate is not None:
            return int(candidate)
    return 0


def text_of(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of generated ids up to the first end-of-text token."""
    end = tokenizer.eos_token_id
    ids = list(ids)
    if end in ids:
        ids = ids[: ids.index(end)]
    text: str = tokenizer.decode(ids, skip_special_tokens=True)
    return text
