"""A request completed by what the model says about itself, and checked against it."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import attrs
import torch
from torch import Tensor

from dlm.config.components import FULL_ATTENTION
from dlm.errors import ModelError, UserInputError
from dlm.sampling.request import Request
from dlm_plugins import AttentionBias, Remasker
from dlm_plugins.errors import ComponentLookupError, ConfigurationError
from dlm_plugins.registry import Registry
from dlm_plugins.structuring import structure_component


@attrs.frozen(kw_only=True, eq=False)
class Settings:
    """Complete and checked."""

    request: Request
    block_length: int
    blocks_from_start: bool
    """Whether blocks count from the start of the text, as in pre-training, instead of from the answer's."""
    remasker: Remasker
    bias: AttentionBias
    mask_id: int
    eos_ids: Tensor
    """(E,) int64."""
    suppressed: Tensor
    """(S,) int64."""
    row_keys: Tensor
    """(B,) int64."""


def complete(model: Any, input_ids: Tensor, request: Request) -> Settings:
    """Fill in the model's own values for None, turn names into components, and check everything.

    Raises:
        UserInputError: a value that does not fit the model, or a prompt that does not fit its context.
        ModelError: a model that cannot be sampled from by unmasking.
    """
    if input_ids.ndim != 2:
        raise UserInputError(f"input_ids must be (rows, positions), not {tuple(input_ids.shape)}")
    config, device = model.config, input_ids.device
    mask_id = mask_id_of(config, request.mask_id)
    _check_length(config, input_ids.shape[1], request.gen_length)
    vocabulary_size = config.get_text_config().vocab_size
    eos_ids = _ids("eos_id", _eos_ids(config, request.eos_id, vocabulary_size), vocabulary_size, device)
    if not len(eos_ids) and (request.stop_at_eos or request.eos_penalty):
        raise UserInputError("stop_at_eos and eos_penalty need eos_id: the model's config names no end-of-text token")
    return Settings(
        request=request,
        block_length=_block_length(config, request, input_ids),
        # Only the model's own attention knows where its blocks began.
        blocks_from_start=request.attention_bias is None and getattr(config, "block_origin", None) == "document",
        remasker=component("remasking", request.remasking),
        bias=_bias(config, request.attention_bias),
        mask_id=mask_id,
        eos_ids=eos_ids,
        suppressed=_ids("suppress_tokens", request.suppress_tokens, vocabulary_size, device),
        row_keys=_row_keys(len(input_ids), request.row_keys, device),
    )


def component(kind: str, value: Any, registry: Registry | None = None) -> Any:
    """A component from its name, from a mapping with ``name`` and options, or as it is.

    Args:
        kind: of the component.
        value: what names it.
        registry: where to look; None: among everything that is installed.

    Raises:
        UserInputError: no such component, or no such option.
    """
    if not isinstance(value, str | Mapping):
        return value
    try:
        if registry is not None:
            return structure_component(registry, kind, value)
        try:
            return structure_component(_registry(), kind, value)
        except (ComponentLookupError, ConfigurationError):
            # Perhaps the plugin was installed since.
            _registry.cache_clear()
            return structure_component(_registry(), kind, value)
    except (ComponentLookupError, ConfigurationError) as error:
        raise UserInputError(f"{kind}: {error}") from error


@lru_cache(maxsize=1)
def _registry() -> Registry:
    # Looking for plugins takes tens of milliseconds, which would be most of a short call.
    return Registry.discover()


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


def _check_length(config: Any, prompt_length: int, gen_length: int) -> None:
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    if context is not None and prompt_length + gen_length > context:
        raise UserInputError(
            f"prompt ({prompt_length} tokens) and gen_length ({gen_length}) exceed the model's context of {context} "
            "tokens: shorten the prompt or lower gen_length"
        )


def _eos_ids(config: Any, eos_id: int | Sequence[int] | None, vocabulary_size: int) -> Sequence[int]:
    if eos_id is not None:
        return (eos_id,) if isinstance(eos_id, int) else eos_id
    own = getattr(config, "eos_token_id", None)
    found = own if isinstance(own, Sequence) else [own]
    # A config made for a larger vocabulary often keeps its default.
    return [each for each in found if each is not None and each < vocabulary_size]


def _ids(name: str, ids: Sequence[int], vocabulary_size: int, device: torch.device) -> Tensor:
    wrong = [each for each in ids if not 0 <= each < vocabulary_size]
    if wrong:
        raise UserInputError(f"{name}: {wrong[0]} is outside the vocabulary, 0 to {vocabulary_size - 1}")
    return torch.tensor(list(ids), dtype=torch.long, device=device)


def _block_length(config: Any, request: Request, input_ids: Tensor) -> int:
    canvas_length = request.gen_length or input_ids.shape[1]
    if request.block_length is not None:
        if request.block_length > canvas_length:
            raise UserInputError(
                f"block_length is {request.block_length}, longer than the {canvas_length} positions to decode; "
                f"use at most {canvas_length}"
            )
        return request.block_length
    own = getattr(config, "block_length", None)
    return max(input_ids.shape[1] + request.gen_length, 1) if own is None else int(own)


def _bias(config: Any, attention_bias: str | Mapping[str, Any] | AttentionBias | None) -> AttentionBias:
    if attention_bias is None:
        attention_bias = getattr(config, "attention_bias_component", None)
    if attention_bias is None:
        attention_bias = FULL_ATTENTION
    bias: AttentionBias = component("attention_bias", attention_bias)
    return bias


def _row_keys(num_rows: int, keys: Tensor | None, device: torch.device) -> Tensor:
    if keys is None:
        return torch.arange(num_rows, device=device)
    if keys.shape != (num_rows,):
        raise UserInputError(f"row_keys must be ({num_rows},), one for each row, not {tuple(keys.shape)}")
    return keys.to(device=device, dtype=torch.long)
