"""Models from scratch: a mapping of the run file becomes a decoder with random weights."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from dlm.errors import ModelError
from dlm.model.attention import SDPA
from dlm.model.checkpoint_sources import one_line, quiet_transformers
from dlm.model.configuration_qwen3llada import Qwen3LLadaConfig
from dlm.model.foreign_config import auto_class_of, blamed_keys, check_decoder, refuse_absurd_numbers, skeleton
from dlm.model.load_model import empty_model, finish_loading, make_bidirectional, proven_with
from dlm_plugins.suggestions import did_you_mean

_ROPE_KEYS = ("rope_theta", "rope_scaling")
"""Older spellings that transformers moves into ``rope_parameters``."""

_RESERVED = {
    "is_causal": "attention always looks both ways",
    "use_cache": "diffusion models do not use that cache",
    "mask_token_id": "it comes from the tokenizer and `model.mask_token`",
    "mask_token": "it is set by `model.mask_token`",
    "dtype": "it is set by `model.dtype`",
    "attn_implementation": "it is set by `model.attn_implementation`",
    "architectures": "it follows from model_type",
    "transformers_version": "it is written by transformers",
    "is_encoder_decoder": "only decoders can be trained",
}


def model_from_config(
    mapping: Mapping[str, Any],
    *,
    vocab_size: int,
    mask_token_id: int | None,
    seed: int = 0,
    dtype: torch.dtype | str = torch.float32,
    attn_implementation: str | None = SDPA,
    empty: bool = False,
) -> PreTrainedModel:
    """Build a decoder with random weights, and prove on a tiny input that it is bidirectional.

    Args:
        mapping: ``model_type`` (default ``qwen3llada``; any decoder of transformers) and fields of its configuration
            class. ``rope_theta`` may stand by itself or inside ``rope_parameters``. ``vocab_size`` may pad the
            vocabulary, never cut it.
        vocab_size: Number of ids the tokenizer has.
        mask_token_id: Id of the mask token.
        seed: Seed of the initialisation. The global generators are left as they were.
        dtype: Dtype of the weights.
        attn_implementation: As in ``load_model``.
        empty: As in ``load_model``.

    Returns:
        The model in evaluation mode, on the CPU.

    Raises:
        ModelError: Unknown keys (with suggestions), values that the configuration or the model refuses, an unknown
            model type, or a model that fails the proof.
    """
    options = dict(mapping)
    model_type = options.pop("model_type", Qwen3LLadaConfig.model_type)
    config_class = _config_class(model_type)
    _check_keys(options, config_class)
    refuse_absurd_numbers(options, "model config")
    rows = options.setdefault("vocab_size", vocab_size)
    if not isinstance(rows, int) or rows < vocab_size:
        raise ModelError(f"model config: vocab_size {rows!r} is smaller than the tokenizer's {vocab_size} ids")
    try:
        with quiet_transformers(), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            config = config_class(**options)
            check_decoder(config, "model config")
            make_bidirectional(config, mask_token_id=mask_token_id)
            if empty:
                return empty_model(config, dtype, attn_implementation)
            model = auto_class_of(config).from_config(
                config, dtype=dtype, attn_implementation=proven_with(attn_implementation)
            )
    except ModelError:
        raise
    except Exception as error:
        keys = blamed_keys(options, lambda settings: skeleton(config_class(**settings)))
        raise ModelError(f"model config: {keys}{model_type} refuses these values: {one_line(error)}") from error
    return finish_loading(model, "model config", mask_token_id, attn_implementation)


def _config_class(model_type: Any) -> type[PreTrainedConfig]:
    """The configuration class of a model type."""
    if model_type not in CONFIG_MAPPING:
        hint = did_you_mean(model_type, CONFIG_MAPPING)
        raise ModelError(f"model config: transformers knows no model_type {model_type!r}{hint}")
    config_class: type[PreTrainedConfig] = CONFIG_MAPPING[model_type]
    return config_class


def known_keys(config_class: type[PreTrainedConfig]) -> set[str]:
    """The keys that a configuration class really has a meaning for. (It would accept any other without a word.)"""
    # Configuration classes of transformers are dataclasses, which their base class arranges.
    keys = {field.name for field in dataclasses.fields(config_class)}
    keys |= set(config_class.attribute_map)
    if "rope_parameters" in keys:
        keys |= set(_ROPE_KEYS)
    return {key for key in keys if not key.startswith("_")} - set(_RESERVED)


def _check_keys(options: Mapping[str, Any], config_class: type[PreTrainedConfig]) -> None:
    """Refuse keys without a meaning, all of them in one message."""
    known = known_keys(config_class)
    problems = []
    for key in options:
        if key in _RESERVED:
            problems.append(f"{key} cannot be set here: {_RESERVED[key]}")
        elif key not in known:
            problems.append(f"unknown key {key}{did_you_mean(key, known)}")
    if problems:
        raise ModelError(f"model config ({config_class.model_type}): " + "; ".join(problems))
