"""What one call comes to: defaults from the model (gen_length, blocks, EOS, mask id, context), and checks.

Block length, EOS and mask ids, attention bias, suppressed tokens, room in the context.
"""

from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from dlm.config.components_in_effect import FULL_ATTENTION, reason_against_shift
from dlm.config.sampling_settings import SamplingSettings
from dlm.errors import ModelError, UserInputError
from dlm.sampling.arguments import component
from dlm_plugins import AttentionBias, Remasker

DEFAULT_GEN_LENGTH = 128
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


@attrs.frozen(kw_only=True, eq=False)
class ResolvedSettings:
    """Nothing is left open. B rows."""

    gen_length: int
    steps: int
    block_length: int
    blocks_from_start: bool
    """Whether blocks count from the start of the text, as in pre-training, instead of from the answer's."""
    remasker: Remasker
    bias: AttentionBias
    temperature: float
    cfg_scale: float
    seed: int | tuple[int, ...]
    """Of all rows, or of each."""
    mask_id: int
    eos_ids: Tensor
    """(E,) int64."""
    stops_at_eos: bool
    """Blocks after one with an end of text are filled instead of decoded."""
    commits_eos_last: bool
    suppressed: Tensor
    """(S,) int64."""
    row_keys: Tensor
    """(B,) int64."""


def resolve(model: Any, input_ids: Tensor, settings: SamplingSettings, row_keys: Tensor | None) -> ResolvedSettings:
    """Fill in what the model and the prompts (B, P) say, and check the rest against them.

    Raises:
        UserInputError: a value that does not fit the model, or a prompt that does not fit its context.
        ModelError: a model that cannot be sampled from by unmasking.
    """
    config = model.config
    check_input_ids(input_ids, config.get_text_config().vocab_size)
    device = input_ids.device
    mask_id = mask_id_of(config, settings.mask_id)
    gen_length = gen_length_of(config, settings.gen_length, input_ids.shape[1])
    size = config.get_text_config().vocab_size
    ends = _ids("eos_id", _eos_ids(config, settings.eos_id, size), size)
    if not ends and settings.eos in ("suppress", "late"):
        raise UserInputError(f"eos: {settings.eos} needs eos_id: the model's config names no end-of-text token")
    suppressed = _ids("suppress_tokens", settings.suppress_tokens, size)
    return ResolvedSettings(
        gen_length=gen_length,
        steps=settings.steps or max(int((input_ids == mask_id).sum(dim=1).max()) + gen_length, 1),
        block_length=_block_length(config, settings.block_length, input_ids.shape[1], gen_length),
        # Only the model's own attention knows where its blocks began.
        blocks_from_start=settings.attention_bias is None and getattr(config, "block_origin", None) == "document",
        remasker=settings.remasking,
        bias=bias_of(config, settings.attention_bias),
        temperature=float(settings.temperature),
        cfg_scale=float(settings.cfg_scale),
        seed=settings.seed,
        mask_id=mask_id,
        eos_ids=torch.tensor(ends, dtype=torch.long, device=device),
        stops_at_eos=bool(ends) and settings.eos in ("stop", "late"),
        commits_eos_last=settings.eos == "late",
        suppressed=torch.tensor(
            [*suppressed, *(ends if settings.eos == "suppress" else ())], dtype=torch.long, device=device
        ),
        row_keys=_row_keys(len(input_ids), row_keys, device),
    )


def mask_id_of(config: Any, mask_id: int | None) -> int:
    """The id of the mask; None: the model's own.

    Raises:
        ModelError: a model without a mask, or one that has never seen it.
        UserInputError: an id outside the vocabulary.
    """
    if getattr(config, "noise_shows_mask", True) is False:
        raise ModelError(
            "this model was trained with noise that never shows the mask token, so that it cannot generate from masks; "
            "train with noise_type: mask"
        )
    largest = config.get_text_config().vocab_size - 1
    if mask_id is not None:
        if not 0 <= mask_id <= largest:
            raise UserInputError(f"mask_id is {mask_id}; it must be within the vocabulary, 0 to {largest}")
        return mask_id
    own: int | None = getattr(config, "mask_token_id", None)
    if own is None:
        raise ModelError(
            "the model's config has no mask_token_id: convert the model with `dlm convert`, or say which id is the mask"
        )
    if not 0 <= own <= largest:
        raise ModelError(
            f"the model's config says mask_token_id is {own}, outside its vocabulary, 0 to {largest}: "
            "`dlm convert` gives a model a mask token that fits"
        )
    return own


def context_of(config: Any) -> int | None:
    """Positions that the model has room for; None: as many as wanted."""
    context: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return context


def gen_length_of(config: Any, wanted: int | None, prompt_length: int) -> int:
    """Tokens to generate after a prompt; None: 128, or what fits into the context.

    Raises:
        UserInputError: prompt and answer do not fit into the context.
    """
    context = context_of(config)
    if wanted is None and context is not None and prompt_length >= context:
        raise UserInputError(
            f"the longest prompt has {prompt_length} tokens and leaves no room in the model's context of {context} "
            "tokens: shorten it"
        )
    if wanted is None:
        return DEFAULT_GEN_LENGTH if context is None else min(DEFAULT_GEN_LENGTH, context - prompt_length)
    if context is not None and prompt_length + wanted > context:
        raise UserInputError(
            f"prompt ({prompt_length} tokens) and gen_length ({wanted}) exceed the model's context of {context} "
            "tokens: shorten the prompt or lower gen_length"
        )
    return wanted


def _eos_ids(config: Any, eos_id: int | Sequence[int] | None, vocabulary_size: int) -> Sequence[int]:
    if eos_id is not None:
        return (eos_id,) if isinstance(eos_id, int) else eos_id
    own = getattr(config, "eos_token_id", None)
    found = own if isinstance(own, Sequence) else [own]
    # A config made for a larger vocabulary often keeps its default.
    return [each for each in found if each is not None and each < vocabulary_size]


def _ids(name: str, ids: Sequence[int], vocabulary_size: int) -> list[int]:
    wrong = [each for each in ids if not 0 <= each < vocabulary_size]
    if wrong:
        raise UserInputError(f"{name}: {wrong[0]} is outside the vocabulary, 0 to {vocabulary_size - 1}")
    return list(ids)


def _block_length(config: Any, wanted: int | None, prompt_length: int, gen_length: int) -> int:
    canvas_length = gen_length or prompt_length
    if wanted is not None:
        if wanted > canvas_length:
            raise UserInputError(
                f"block_length is {wanted}, longer than the {canvas_length} positions to decode; "
                f"use at most {canvas_length}"
            )
        return wanted
    own = getattr(config, "block_length", None)
    return max(prompt_length + gen_length, 1) if own is None else int(own)


def bias_of(config: Any, wanted: AttentionBias | None) -> AttentionBias:
    """Who sees whom; None: as the model was trained.

    Raises:
        UserInputError: a bias that the model's logit shift does not go with.
    """
    own = getattr(config, "attention_bias_component", None) or FULL_ATTENTION
    bias: AttentionBias = component("attention_bias", own) if wanted is None else wanted
    reason = reason_against_shift(bias) if getattr(config, "logit_shift", False) else None
    if reason is not None:
        raise UserInputError(f"attention_bias: the model's logit_shift {reason}; use full or block_causal")
    return bias


def _row_keys(num_rows: int, keys: Tensor | None, device: torch.device) -> Tensor:
    if keys is None:
        return torch.arange(num_rows, device=device)
    check_row_keys(keys, num_rows)
    return keys.to(device=device, dtype=torch.long)


def check_input_ids(input_ids: Any, vocabulary_size: int) -> None:
    """Refuse anything but (rows, positions) of ids in the vocabulary.

    Raises:
        UserInputError: with what was expected.
    """
    _check_integers("input_ids", input_ids, "(rows, positions)")
    if input_ids.ndim != 2:
        raise UserInputError(f"input_ids must be (rows, positions), not {tuple(input_ids.shape)}")
    if not len(input_ids):
        raise UserInputError("input_ids has no rows; an empty prompt is one row of 0 positions, shape (1, 0)")
    wrong = (input_ids < 0) | (input_ids >= vocabulary_size)
    if bool(wrong.any()):
        row, position = wrong.nonzero()[0].tolist()
        raise UserInputError(
            f"input_ids: {int(input_ids[row, position])} in row {row} at position {position} is outside the "
            f"vocabulary, 0 to {vocabulary_size - 1}"
        )


def check_attention_mask(attention_mask: Any, input_ids: Tensor) -> None:
    """Refuse anything but 1 at tokens and 0 at padding, in the shape of ``input_ids``.

    Raises:
        UserInputError: with what was expected.
    """
    if not isinstance(attention_mask, Tensor):
        raise UserInputError(
            f"attention_mask must be a tensor of 1 at tokens and 0 at padding, not {type(attention_mask).__name__}"
        )
    if attention_mask.shape != input_ids.shape:
        raise UserInputError(
            f"attention_mask is {tuple(attention_mask.shape)}, input_ids are {tuple(input_ids.shape)}: they must match"
        )
    if not bool(((attention_mask == 0) | (attention_mask == 1)).all()):
        raise UserInputError("attention_mask must be 1 at tokens and 0 at padding; it has other values")


def check_row_keys(row_keys: Any, num_rows: int) -> None:
    """Refuse anything but one integer for each row.

    Raises:
        UserInputError: with what was expected.
    """
    _check_integers("row_keys", row_keys, f"({num_rows},)")
    if row_keys.shape != (num_rows,):
        raise UserInputError(f"row_keys must be ({num_rows},), one for each row, not {tuple(row_keys.shape)}")


def _check_integers(name: str, value: Any, shape: str) -> None:
    if not isinstance(value, Tensor):
        kind = type(value).__name__
        raise UserInputError(f"{name} must be a tensor {shape} of int64, not {kind}: torch.tensor(...) makes one")
    if value.dtype not in _INTEGERS:
        raise UserInputError(
            f"{name} must be a tensor {shape} of int64, not of {str(value.dtype).removeprefix('torch.')}"
        )
