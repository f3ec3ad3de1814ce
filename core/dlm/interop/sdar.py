"""Export as SDAR (``dlm export --format sdar``) for SGLang and lmdeploy: what fits, and every key of config.json."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from dlm.interop.trained_folder import (
    TrainedFolder,
    copy_with_notices,
    open_to_export,
    save_tokenizer_for_older_readers,
    write_json,
)
from dlm.model.checkpoint_tensors import open_tensors
from dlm.model.configuration_qwen3llada import Qwen3LLadaConfig
from dlm.model.new_folder import published

SDAR_MASK_ID = 151669
"""The id that both engines take for the mask, whatever config.json says."""

_SAME_AS_QWEN3 = (
    "attention_dropout",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "initializer_range",
    "intermediate_size",
    "max_position_embeddings",
    "max_window_layers",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "rms_norm_eps",
    "tie_word_embeddings",
    "vocab_size",
    "bos_token_id",
    "pad_token_id",
)
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_SGLANG_FILE = "sglang_low_confidence.yaml"
_CONFIGURATION = Path(__file__).with_name("sdar_configuration.py")


@attrs.frozen(kw_only=True)
class SdarExport:
    """What was written, and how it is served."""

    destination: str
    block_length: int
    mask_id: int
    commands: tuple[tuple[str, str], ...]
    """Engine and the command that starts it."""
    notes: tuple[str, ...]
    """What differs from ``dlm generate``, for the user to read."""


def export_sdar(src: str | Path, dst: str | Path) -> SdarExport:
    """Write a block-diffusion model so that SGLang and lmdeploy load it as ``SDARForCausalLM``.

    The weights are copied byte by byte.

    Args:
        src: Folder of a Qwen3-shaped model trained with ``block_causal`` attention.
        dst: Folder to write; absent or empty. It appears whole or not at all.

    Raises:
        ModelError: The engines would compute something else than ``dlm``; with everything that stands in the way and
            what to change.
    """
    model, destination = open_to_export(src, dst, _obstacles, "SDAR would not mean the same")
    block_length = int(model.config.block_length)
    with published(destination) as folder:
        copy_with_notices(model.path, folder)
        save_tokenizer_for_older_readers(model.tokenizer, folder)
        write_json(folder / "config.json", sdar_config(model))
        write_json(folder / "generation_config.json", _generation_config(model))
        (folder / "configuration_sdar.py").write_bytes(_CONFIGURATION.read_bytes())
        (folder / _SGLANG_FILE).write_text(f"threshold: 0.9\nblock_size: {block_length}\n", encoding="utf-8")
    return SdarExport(
        destination=str(destination),
        block_length=block_length,
        mask_id=model.mask_id,
        commands=_launch_commands(destination, block_length),
        notes=tuple(_notes(model)),
    )


def _obstacles(model: TrainedFolder) -> Iterator[str]:
    """Whatever would make the engines compute something else, each with the key to change."""
    config = model.config
    if config.model_type not in ("qwen3", Qwen3LLadaConfig.model_type):
        yield f"it is a {config.model_type}, SDAR is shaped like Qwen3 (--format hf takes any)"
        return
    bias = str((model.setting("attention_bias_component") or {}).get("name", "full")).removeprefix("builtin:")
    if bias != "block_causal":
        yield f"its attention bias is {bias}: train with training.block_attention {{enabled: true, bias: block_causal}}"
    elif model.setting("block_origin") != "document":
        yield (
            "its blocks count from the answer, SDAR's from the start of the text: fine-tune with "
            "training.block_attention.origin: document"
        )
    if not model.setting("block_length"):
        yield "config.json has no block_length: train with training.block_attention.block_length"
    if model.setting("logit_shift", default=False):
        yield "it was trained with model.logit_shift: true, SDAR predicts in place: train with false"
    if model.setting("noise_shows_mask", default=True) is False:
        yield "it has never seen the mask: train with noise_type: mask"
    if model.mask_id != SDAR_MASK_ID:
        yield (
            f"its mask id is {model.mask_id}, the engines take {SDAR_MASK_ID}: start from a Qwen3 tokenizer, whose "
            "<|mask|> is that id"
        )
    yield from _other_architecture(config)


def _other_architecture(config: Any) -> Iterator[str]:
    """Switches of Qwen3 that SDAR does not have."""
    rope = config.rope_parameters or {}
    if rope.get("rope_type", "default") != "default":
        yield f"rope_parameters.rope_type is {rope['rope_type']}, SDAR's rotary embedding is not scaled: train without"
    if config.attention_bias:
        yield "attention_bias is true, SDAR's projections have no bias terms: convert a model without"
    if config.hidden_act != "silu":
        yield f"hidden_act is {config.hidden_act}, the engines compute silu: convert a model with silu"
    if "sliding_attention" in (config.layer_types or ()):
        yield "some layers look at a sliding window, SDAR's see all blocks: set use_sliding_window to false"


def sdar_config(model: TrainedFolder) -> dict[str, Any]:
    """Everything that ``config.json`` of an SDAR model holds.

    ``rope_theta`` stands at the top and ``torch_dtype`` has its old name: left out, the engines take 10000 without a
    word, and every logit is wrong.
    """
    config = model.config
    with open_tensors(model.path) as stored:
        dtypes = {str(tensor.get_dtype()) for tensor in stored.slices.values()}
    return {
        "architectures": ["SDARForCausalLM"],
        "model_type": "sdar",
        "auto_map": {"AutoConfig": "configuration_sdar.SDARConfig"},
        **{key: getattr(config, key) for key in _SAME_AS_QWEN3},
        "eos_token_id": next(iter(model.end_ids), None),
        "attention_bias": False,
        "block_size": int(config.block_length),
        "mask_token_id": model.mask_id,
        "rope_theta": float(config.rope_parameters["rope_theta"]),
        "rope_scaling": None,
        "sliding_window": None,
        "use_sliding_window": False,
        "torch_dtype": _DTYPES.get(dtypes.pop(), "float32") if len(dtypes) == 1 else "float32",
        "use_cache": True,
        "fuse_cross_entropy": False,
    }


def _generation_config(model: TrainedFolder) -> dict[str, Any]:
    pad = model.setting("pad_token_id", next(iter(model.end_ids), None))
    return {"bos_token_id": model.config.bos_token_id, "eos_token_id": model.end_ids, "pad_token_id": pad}


def _launch_commands(destination: Path, block_length: int) -> tuple[tuple[str, str], ...]:
    folder, settings = shlex.quote(str(destination)), shlex.quote(str(destination / _SGLANG_FILE))
    sglang = (
        f"python -m sglang.launch_server --model-path {folder} --trust-remote-code "
        f"--dllm-algorithm LowConfidence --dllm-algorithm-config {settings}"
    )
    lmdeploy = (
        f"lmdeploy serve api_server {folder} --backend pytorch --dllm-block-length {block_length} "
        f"--dllm-denoising-steps {block_length} --dllm-unmasking-strategy low_confidence_dynamic "
        "--dllm-confidence-threshold 0.9"
    )
    return (("SGLang", sglang), ("lmdeploy", lmdeploy))


def _notes(model: TrainedFolder) -> Iterator[str]:
    if model.setting("prompt_rendering") == "plain":
        yield "trained on plain prompts: use /v1/completions; /v1/chat/completions renders the chat template"
    elif model.tokenizer.chat_template is None:
        yield "the tokenizer has no chat template: use /v1/completions"
    if not model.end_ids:
        yield "neither config nor tokenizer names an end of text: the engines stop at max_tokens only"
