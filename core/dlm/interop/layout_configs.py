"""``config.json`` of published diffusion models in terms of Qwen3, Qwen2 or Llama, or why it means another model."""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import LlamaConfig, Qwen2Config, Qwen3Config

from dlm.errors import ModelError
from dlm.interop.layouts import Layout, Target
from dlm.model.checkpoint_sources import one_line, quiet_transformers
from dlm.model.foreign_config import blamed_keys, refuse_absurd_numbers

_CONFIGS: Mapping[Target, tuple[Any, str]] = {
    "qwen3": (Qwen3Config, "Qwen3ForCausalLM"),
    "qwen2": (Qwen2Config, "Qwen2ForCausalLM"),
    "llama": (LlamaConfig, "LlamaForCausalLM"),
}
_SHAPE = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "rms_norm_eps",
    "max_position_embeddings",
)
"""Keys without which the defaults of a class would make another model."""
_MEASURES = ("rms_norm_eps", "rope_theta")
"""Keys whose numbers need not be whole."""
_CARRIED = frozenset(_SHAPE) | {
    "head_dim",
    "hidden_act",
    "attention_dropout",
    "initializer_range",
    "attention_bias",
    "mlp_bias",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "dtype",
    "torch_dtype",
}
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "rope_scaling": (None,),
    "use_mrope": (None, False),
    "use_sliding_window": (None, False),
}
"""Switches that must be off."""
_ABOUT_THE_FILE = frozenset(
    {"model_type", "architectures", "auto_map", "transformers_version", "tie_word_embeddings", "mask_token_id"}
)
_READ = _CARRIED | _NEUTRAL.keys() | _ABOUT_THE_FILE | {"rope_theta", "rope_parameters", "layer_types"}

_LLADA_KEYS = {
    "d_model": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "mlp_hidden_size": "intermediate_size",
    "max_sequence_length": "max_position_embeddings",
    "rms_norm_eps": "rms_norm_eps",
    "rope_theta": "rope_theta",
    "vocab_size": "vocab_size",
}
_LLADA_SWITCHES: Mapping[str, tuple[Any, ...]] = {
    "block_type": ("llama",),
    "layer_norm_type": ("rms",),
    "activation_type": ("silu",),
    "rope": (True,),
    "alibi": (False, None),
    "attention_layer_norm": (False, None),
    "bias_for_layer_norm": (False, None),
    "include_bias": (False, None),
    "include_qkv_bias": (False, None),
    "scale_logits": (False, None),
    "input_emb_norm": (False, None),
    "multi_query_attention": (False, None),
    "block_group_size": (1, None),
}
"""The values of LLaDA's switches that make it a Llama; a missing one has the default of a GPT-2-like model."""
_LLADA_NEEDED = ("block_type", "layer_norm_type", "activation_type", "rope")


def plain_config(
    layout: Layout, settings: Mapping[str, Any], where: str, *, has_head: bool
) -> tuple[dict[str, Any], list[str]]:
    """The configuration of a plain class of transformers, and the keys that it has no place for.

    Args:
        layout: Layout of the checkpoint.
        settings: Its ``config.json``.
        where: Beginning of error messages.
        has_head: Whether a head of its own is among the tensors: the files decide, whatever the flag says.

    Raises:
        ModelError: A key is missing whose default would make another model, a switch means another model, or no model
            can be made of a value; with the key.
    """
    refuse_absurd_numbers(settings, where)
    try:
        with quiet_transformers():
            return _mapped(layout, settings, where, has_head=has_head)
    except ModelError:
        raise
    except Exception as error:
        keys = blamed_keys(settings, lambda some: _mapped(layout, some, where, has_head=has_head))
        raise ModelError(f"{where}: {keys}no model can be made of it: {one_line(error)}") from error


def _mapped(
    layout: Layout, settings: Mapping[str, Any], where: str, *, has_head: bool
) -> tuple[dict[str, Any], list[str]]:
    _refuse_switches(settings, _NEUTRAL, where)
    if layout.name == "llada":
        settings, left = _llada_as_llama(settings, where)
    else:
        left = sorted(settings.keys() - _READ - {*layout.block_keys})
    target = layout.model_types[str(settings["model_type"])]
    needed = (*_SHAPE, "head_dim") if target == "qwen3" else _SHAPE
    missing = [key for key in needed if settings.get(key) is None]
    if missing:
        raise ModelError(f"{where}: {', '.join(missing)} missing; a default would make another model")
    _check_sizes(settings, needed, where)
    if any(kind != "full_attention" for kind in settings.get("layer_types") or ()):
        raise ModelError(f"{where}: layer_types: some layers look at a window, which diffusion models do not")
    if not has_head and settings.get("tie_word_embeddings") is False:
        raise ModelError(f"{where}: tie_word_embeddings is false, but the files hold no head")
    if target != "llama" and settings.get("attention_bias"):
        raise ModelError(f"{where}: attention_bias is true, which a {layout.name} model does not have")
    fields = {key: settings[key] for key in _CARRIED & settings.keys()}
    fields["dtype"] = fields.pop("torch_dtype", None) or fields.get("dtype")
    fields |= {"rope_parameters": _rope(settings, where), "tie_word_embeddings": not has_head}
    config_class, architecture = _CONFIGS[target]
    config = config_class(**fields).to_dict()
    return {**config, "architectures": [architecture], "model_type": target}, left


def _rope(settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The rotary embedding: the old spelling at the top, or the new one."""
    nested = settings.get("rope_parameters") or {}
    theta = settings.get("rope_theta", nested.get("rope_theta"))
    if theta is None:
        raise ModelError(f"{where}: rope_theta is missing; its default would make another model")
    _check_sizes({"rope_theta": theta}, ["rope_theta"], where)
    if nested.get("rope_type", "default") != "default" or nested.get("rope_theta", theta) != theta:
        raise ModelError(f"{where}: rope_parameters: a scaled or contradictory rotary embedding cannot be mapped")
    return {"rope_type": "default", "rope_theta": float(theta)}


def _check_sizes(settings: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
    for key in keys:
        value, kinds = settings[key], (int, float) if key in _MEASURES else (int,)
        if isinstance(value, bool) or not isinstance(value, kinds) or not value > 0:
            whole = "" if key in _MEASURES else "whole "
            raise ModelError(f"{where}: {key} is {value!r}; it must be a {whole}number above 0")


def _refuse_switches(settings: Mapping[str, Any], allowed: Mapping[str, tuple[Any, ...]], where: str) -> None:
    for key, values in allowed.items():
        if key in settings and settings[key] not in values:
            raise ModelError(
                f"{where}: {key} is {settings[key]!r}, which means another model; only {values[0]!r} is read"
            )


def _llada_as_llama(settings: Mapping[str, Any], where: str) -> tuple[dict[str, Any], list[str]]:
    """LLaDA's keys by Llama's names."""
    absent = [key for key in (*_LLADA_KEYS, *_LLADA_NEEDED) if settings.get(key) is None]
    if absent:
        raise ModelError(f"{where}: {', '.join(absent)} missing; a default would make another model")
    _check_sizes(settings, [*_LLADA_KEYS], where)
    _refuse_switches(settings, _LLADA_SWITCHES, where)
    rows = settings.get("embedding_size") or settings["vocab_size"]
    if rows != settings["vocab_size"]:
        raise ModelError(f"{where}: embedding_size {rows} is not vocab_size {settings['vocab_size']}: cannot be mapped")
    renamed = {new: settings[old] for old, new in _LLADA_KEYS.items()}
    kept = {key: settings[key] for key in (_CARRIED | _ABOUT_THE_FILE) & settings.keys()}
    known = {*_LLADA_KEYS, *_LLADA_SWITCHES, *_NEUTRAL, *kept, "embedding_size", "weight_tying"}
    biases = {"attention_bias": False, "mlp_bias": False, "hidden_act": "silu"}
    tied = {"tie_word_embeddings": settings.get("weight_tying", False)}
    return {**kept, **renamed, **biases, **tied}, sorted(settings.keys() - known)
