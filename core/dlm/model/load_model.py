"""Load any decoder of transformers (``dlm.load``) as a bidirectional one: dtype, attention backend, mask token."""

import copy
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from transformers import PreTrainedConfig, PreTrainedModel

from dlm.errors import ModelError
from dlm.model.adapter_files import refuse_adapters
from dlm.model.attention import FLEX, SDPA, use_attention
from dlm.model.checkpoint_sources import foreign_code, quiet_transformers, resolve_source
from dlm.model.checkpoint_tensors import check_weights, open_tensors
from dlm.model.foreign_config import auto_class_of, load_model_config, skeleton
from dlm.model.load_checks import prove_bidirectional

logger = logging.getLogger(__name__)


def load_model(
    name_or_path: str | Path,
    *,
    dtype: torch.dtype | str | None = None,
    attn_implementation: str | None = SDPA,
    mask_token_id: int | None = None,
    trust_remote_code: bool = False,
    revision: str | None = None,
    empty: bool = False,
) -> PreTrainedModel:
    """Load a decoder, make it bidirectional, and prove on a tiny input that it is.

    The model keeps its own class (``Qwen3LLadaForMaskedLM`` for a converted folder, ``Qwen3ForCausalLM`` for an
    autoregressive Qwen3, ``LlamaForCausalLM``, ...). Its configuration gains ``is_causal: false``,
    ``use_cache: false`` and ``mask_token_id``.

    Args:
        name_or_path: A folder with ``config.json`` and safetensors, or a name on the Hugging Face hub.
        dtype: Dtype of the weights; None: as they were saved. Training wants float32.
        attn_implementation: ``sdpa``, ``eager``, ``flex_attention``, or flash attention where nothing but padding is
            ever hidden; None: what transformers takes for this family.
        mask_token_id: Id of the mask token; None: the one in the configuration, if there is one.
        trust_remote_code: Whether code from the checkpoint may run.
        revision: Branch, tag or commit on the hub.
        empty: Whether the weights are left out: parameters are on the meta device, nothing is read or proved.

    Returns:
        The model in evaluation mode, on the CPU.

    Raises:
        ModelError: The checkpoint is not there, has no safetensors, does not fit its configuration, or its model fails
            the proof (see ``dlm.model.load_checks``); with the reason.
    """
    source, is_folder = resolve_source(name_or_path)
    origin: dict[str, Any] = {"trust_remote_code": trust_remote_code, "local_files_only": is_folder}
    if revision is not None:
        origin["revision"] = revision
    if is_folder:
        refuse_adapters(Path(source))
    config = load_model_config(source, **origin)
    if is_folder and not empty:
        check_weights(Path(source))
    make_bidirectional(config, mask_token_id=mask_token_id)
    if empty:
        return empty_model(config, config.dtype if dtype is None else dtype, attn_implementation, trust_remote_code)
    try:
        model = _read_weights(source, config, dtype, attn_implementation, origin)
    except ModelError:
        if is_folder:
            _refuse_other_shapes(Path(source), config)
        raise
    return finish_loading(model, source, mask_token_id, attn_implementation)


def check_fit(folder: Path, config: PreTrainedConfig) -> None:
    """Refuse a folder whose weights are not those of its model, without taking memory for them.

    Raises:
        ModelError: A tensor is missing, unknown or of another shape, or transformers does not find the files.
    """
    try:
        origin = {"local_files_only": True, "device_map": "meta"}
        _read_weights(str(folder), copy.deepcopy(config), None, None, origin)
    except ModelError:
        _refuse_other_shapes(folder, config)
        raise


def _read_weights(
    source: str,
    config: PreTrainedConfig,
    dtype: torch.dtype | str | None,
    attn_implementation: str | None,
    origin: Mapping[str, Any],
) -> PreTrainedModel:
    with foreign_code(f"{source}: the model cannot be loaded"):
        model: PreTrainedModel
        model, report = auto_class_of(config).from_pretrained(
            source,
            config=config,
            dtype="auto" if dtype is None else dtype,
            attn_implementation=proven_with(attn_implementation),
            use_safetensors=True,
            output_loading_info=True,
            **origin,
        )
    _check_report(source, report)
    return model


def empty_model(
    config: PreTrainedConfig, dtype: Any, attn_implementation: str | None, trust_remote_code: bool = False
) -> PreTrainedModel:
    """The model of ``config`` with its parameters on the meta device; its buffers are real."""
    with quiet_transformers(), init_empty_weights(include_buffers=False):
        model: PreTrainedModel = auto_class_of(config).from_config(
            config,
            dtype=dtype,
            attn_implementation=proven_with(attn_implementation),
            trust_remote_code=trust_remote_code,
        )
    model.tie_weights()  # each place has got a parameter of its own
    model.eval()
    return model


def proven_with(implementation: str | None) -> str | None:
    """The attention implementation a model is proven with: flex_attention has no derivative on the CPU."""
    return SDPA if implementation == FLEX else implementation


def finish_loading(
    model: Any, origin: str, mask_token_id: int | None, attn_implementation: str | None
) -> PreTrainedModel:
    """Check the mask id, prove the model, and give it its attention; ``origin`` says in errors where it came from.

    Raises:
        ModelError: The mask id lies outside the embedding, the proof fails, or the family has no such attention.
    """
    num_rows = model.get_input_embeddings().num_embeddings
    if mask_token_id is not None and not 0 <= mask_token_id < num_rows:
        raise ModelError(
            f"{origin}: mask_token_id {mask_token_id} is outside the vocabulary of the model, which has ids 0 to "
            f"{num_rows - 1}; `dlm convert` gives a checkpoint a mask token"
        )
    model.eval()
    try:
        prove_bidirectional(model)
        if attn_implementation == FLEX:
            use_attention(model, FLEX)
    except ModelError as error:
        raise ModelError(f"{origin}: {error}") from error
    checked: PreTrainedModel = model
    return checked


def make_bidirectional(config: PreTrainedConfig, *, mask_token_id: int | None) -> None:
    """Let ``config`` say that attention looks both ways and that nothing is cached."""
    say_if_replaced(config, mask_token_id)
    text_config = config.get_text_config()
    for part in {id(config): config, id(text_config): text_config}.values():
        part.is_causal = False
        part.use_cache = False
        part.mask_token_id = getattr(part, "mask_token_id", None) if mask_token_id is None else mask_token_id


def say_if_replaced(config: PreTrainedConfig, mask_token_id: int | None) -> None:
    """Warn where a configuration has a mask id that another one replaces: its model was trained with the old one."""
    before = getattr(config, "mask_token_id", None)
    if before is not None and mask_token_id is not None and before != mask_token_id:
        logger.warning("mask_token_id: %s replaces %s, which the model's config.json declares", mask_token_id, before)


def _refuse_other_shapes(folder: Path, config: PreTrainedConfig) -> None:
    """Name the tensors whose shape is not the one that ``config`` says; transformers shows them in a table only."""
    expected = {name: list(tensor.shape) for name, tensor in skeleton(config).state_dict().items()}
    with open_tensors(folder) as stored:
        other = [
            f"{name} is {tensor.get_shape()}, not {expected[name]}"
            for name, tensor in stored.slices.items()
            if name in expected and tensor.get_shape() != expected[name]
        ]
    if other:
        raise ModelError(
            f"{folder}: the weights do not fit config.json: {len(other)} tensors have another shape than it says "
            f"({_first_of(other)})"
        )


def _first_of(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _check_report(source: str, report: Any) -> None:
    """Refuse a checkpoint whose tensors are not those of the model, instead of training on random ones."""
    problems = []
    for key, what in (("missing_keys", "are missing"), ("unexpected_keys", "are unknown to the model")):
        names = sorted(report[key])
        if names:
            problems.append(f"{len(names)} tensors {what} ({_first_of(names)})")
    if problems:
        raise ModelError(f"{source}: the weights do not fit config.json: {'; '.join(problems)}")
