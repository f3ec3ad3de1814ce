"""What a caller of the sampler asked for, completed by what the model says about itself and checked."""

import math
from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from dlm.errors import ModelError, UserInputError
from dlm_plugins import AttentionBias, Remasker
from dlm_plugins.errors import ComponentLookupError, ConfigurationError
from dlm_plugins.registry import Registry
from dlm_plugins.structuring import structure_component


@attrs.frozen(kw_only=True, eq=False)
class Settings:
    """Complete and checked."""

    gen_length: int
    steps: int
    block_length: int
    temperature: float
    cfg_scale: float
    remasker: Remasker
    bias: AttentionBias
    mask_id: int
    seed: int


def complete(
    model: Any,
    input_ids: Tensor,
    *,
    gen_length: int,
    steps: int,
    block_length: int | None,
    temperature: float,
    cfg_scale: float,
    remasking: str | Mapping[str, Any] | Remasker,
    attention_bias: str | Mapping[str, Any] | AttentionBias | None,
    mask_id: int | None,
    seed: int,
) -> Settings:
    """Fill in the model's own values for None, turn names into components, and check everything.

    Raises:
        UserInputError: a value out of its range, or a prompt that does not fit.
        ModelError: a model that cannot be sampled from by unmasking.
    """
    _check_ranges(gen_length, steps, block_length, temperature, cfg_scale)
    config = model.config
    mask_id = _mask_id(config, mask_id)
    length = input_ids.shape[-1] + gen_length
    _check_length(config, input_ids.shape[-1], gen_length)
    if not bool((input_ids == mask_id).any()) and gen_length == 0:
        raise UserInputError("nothing to generate: gen_length is 0 and no id is the mask; raise gen_length")
    return Settings(
        gen_length=gen_length,
        steps=steps,
        block_length=_block_length(config, block_length, gen_length or length),
        temperature=float(temperature),
        cfg_scale=float(cfg_scale),
        remasker=component("remasking", remasking),
        bias=_bias(config, attention_bias),
        mask_id=mask_id,
        seed=seed,
    )


def component(kind: str, value: Any) -> Any:
    """A component from its name, from a mapping with ``name`` and options, or as it is.

    Raises:
        UserInputError: no such component, or no such option.
    """
    if not isinstance(value, str | Mapping):
        return value
    try:
        return structure_component(Registry.discover(), kind, value)
    except (ComponentLookupError, ConfigurationError) as error:
        raise UserInputError(f"{kind}: {error}") from error


def _check_ranges(gen_length: int, steps: int, block_length: int | None, temperature: float, cfg_scale: float) -> None:
    if gen_length < 0:
        raise UserInputError(f"gen_length is {gen_length}; it must be at least 0")
    if steps < 1:
        raise UserInputError(f"steps is {steps}; it must be at least 1")
    if block_length is not None and block_length < 1:
        raise UserInputError(f"block_length is {block_length}; it must be at least 1")
    if not (math.isfinite(temperature) and temperature >= 0.0):
        raise UserInputError(f"temperature is {temperature}; it must be a finite number of at least 0")
    if not (math.isfinite(cfg_scale) and cfg_scale >= 0.0):
        raise UserInputError(f"cfg_scale is {cfg_scale}; it must be a finite number of at least 0")


def _mask_id(config: Any, mask_id: int | None) -> int:
    if getattr(config, "noise_type_is_absorbing", True) is False:
        raise ModelError(
            "this model was trained with noise that never shows the mask token, so it cannot generate from masks; "
            "train with noise_type: mask"
        )
    if mask_id is None:
        mask_id = getattr(config, "mask_token_id", None)
    if mask_id is None:
        raise ModelError(
            "the model's config has no mask_token_id: convert the model with `dlm convert`, or pass mask_id"
        )
    vocabulary_size = config.get_text_config().vocab_size
    if not 0 <= mask_id < vocabulary_size:
        raise UserInputError(f"mask_id is {mask_id}; it must be within the vocabulary, 0 to {vocabulary_size - 1}")
    return mask_id


def _check_length(config: Any, prompt_length: int, gen_length: int) -> None:
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    if context is not None and prompt_length + gen_length > context:
        raise UserInputError(
            f"prompt ({prompt_length} tokens) and gen_length ({gen_length}) exceed the model's context of {context}: "
            "shorten the prompt or lower gen_length"
        )


def _block_length(config: Any, block_length: int | None, canvas_length: int) -> int:
    if block_length is not None:
        if block_length > canvas_length:
            raise UserInputError(
                f"block_length is {block_length}, longer than the {canvas_length} positions to decode; "
                "use a smaller block_length"
            )
        return block_length
    own = getattr(config, "block_length", None)
    return canvas_length if own is None else int(own)


def _bias(config: Any, attention_bias: str | Mapping[str, Any] | AttentionBias | None) -> AttentionBias:
    if attention_bias is None:
        attention_bias = getattr(config, "attention_bias_component", None)
    if attention_bias is None:
        return SeeEverything()
    bias: AttentionBias = component("attention_bias", attention_bias)
    return bias


@attrs.frozen
class SeeEverything:
    """The attention bias of a model that says nothing about one."""

    def mask_function(self, layout: Any) -> None:
        """Everybody sees everybody."""


def row_keys(num_rows: int, rows: Tensor | None, device: torch.device) -> Tensor:
    """What the randomness of each row is keyed by: its number in the batch, unless said otherwise.

    Raises:
        UserInputError: not one key for each row.
    """
    if rows is None:
        return torch.arange(num_rows, device=device)
    if rows.shape != (num_rows,):
        raise UserInputError(f"row_keys must be ({num_rows},), one for each row, not {tuple(rows.shape)}")
    return rows.to(device=device, dtype=torch.long)
