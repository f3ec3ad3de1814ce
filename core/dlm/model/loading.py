"""Load any decoder of transformers as a bidirectional one, and prove that it is."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedConfig, PreTrainedModel

from dlm.errors import ModelError
from dlm.model.adapter_files import refuse_adapters
from dlm.model.configuration_qwen3llada import Qwen3LLadaConfig
from dlm.model.proof import prove_bidirectional
from dlm.model.sources import LOADING_ERRORS, one_line, quiet_transformers, require_safetensors, resolve_source

_BOTH_WAYS = frozenset({"full_attention", "sliding_attention"})
"""Types of layers that can look in both directions, and as far as a mask says."""


def load_model(
    name_or_path: str | Path,
    *,
    dtype: torch.dtype | str | None = None,
    attn_implementation: str = "sdpa",
    mask_token_id: int | None = None,
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> PreTrainedModel:
    """Load a decoder, make it bidirectional, and prove on a tiny input that it is.

    The model keeps its own class (``Qwen3LLadaForMaskedLM`` for a converted folder, ``Qwen3ForCausalLM`` for an
    autoregressive Qwen3, ``LlamaForCausalLM``, ...). Its configuration gains ``is_causal: false``,
    ``use_cache: false`` and ``mask_token_id``.

    Args:
        name_or_path: A folder with ``config.json`` and safetensors, or a name on the Hugging Face hub.
        dtype: Dtype of the weights; None: as they were saved. Training wants float32.
        attn_implementation: ``sdpa``, ``eager``, or flash attention where nothing but padding is ever hidden.
        mask_token_id: Id of the mask token; None: the one in the configuration, if there is one.
        trust_remote_code: Whether code from the checkpoint may run.
        revision: Branch, tag or commit on the hub.

    Returns:
        The model in evaluation mode, on the CPU.

    Raises:
        ModelError: The checkpoint is not there, has no safetensors, does not fit its configuration, or its model fails
            the proof (see ``dlm.model.proof``); with the reason.
    """
    check_implementation(attn_implementation)
    source, is_folder = resolve_source(name_or_path)
    origin: dict[str, Any] = {"trust_remote_code": trust_remote_code, "local_files_only": is_folder}
    if revision is not None:
        origin["revision"] = revision
    if is_folder:
        refuse_adapters(Path(source))
    config = load_config(source, **origin)
    if is_folder:
        require_safetensors(Path(source))
    make_bidirectional(config, mask_token_id=mask_token_id)
    auto_class = AutoModelForMaskedLM if isinstance(config, Qwen3LLadaConfig) else AutoModelForCausalLM
    try:
        with quiet_transformers():
            loaded: Any = auto_class.from_pretrained(
                source,
                config=config,
                dtype="auto" if dtype is None else dtype,
                attn_implementation=attn_implementation,
                use_safetensors=True,
                output_loading_info=True,
                **origin,
            )
    except LOADING_ERRORS as error:
        raise ModelError(f"{source}: the model cannot be loaded: {one_line(error)}") from error
    model, report = loaded
    _check_report(source, report)
    return finish_loading(model, source, mask_token_id)


def finish_loading(model: Any, origin: str, mask_token_id: int | None) -> PreTrainedModel:
    """Check the mask id and prove the model; ``origin`` says in errors where it came from.

    Raises:
        ModelError: The mask id lies outside the embedding, or the proof fails.
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
    except ModelError as error:
        raise ModelError(f"{origin}: {error}") from error
    checked: PreTrainedModel = model
    return checked


def load_config(source: str, **origin: Any) -> PreTrainedConfig:
    """The configuration of a checkpoint, refused if it is no decoder.

    Raises:
        ModelError: No readable configuration, an unknown type of model, or an encoder-decoder.
    """
    _require_config(Path(source))
    try:
        with quiet_transformers():
            config: PreTrainedConfig = AutoConfig.from_pretrained(source, **origin)
    except LOADING_ERRORS as error:
        raise ModelError(f"{source}: no usable config.json: {one_line(error)}") from error
    check_decoder(config, source)
    return config


def _require_config(folder: Path) -> None:
    """Refuse a folder that is no model, and name one inside that is: a run's output holds ``final``."""
    if not folder.is_dir() or (folder / "config.json").exists():
        return
    inside = sorted(path.parent for path in folder.glob("*/config.json"))
    hint = f"; did you mean {inside[0]}?" if inside else "; give the folder of a model"
    raise ModelError(f"{folder}: no config.json in this folder{hint}")


def check_decoder(config: PreTrainedConfig, origin: str) -> None:
    """Refuse families that cannot be bidirectional decoders; ``origin`` says in errors where the config came from.

    Raises:
        ModelError: An encoder-decoder, layers that read in one direction only, or layers that look at a window. (Who
            sees whom is decided by masks here, and a mask replaces the window of a layer: the same model would attend
            differently in rows with and without padding.)
    """
    if config.is_encoder_decoder:
        raise ModelError(f"{origin}: {config.model_type} is an encoder-decoder; dlm needs a decoder")
    one_way = sorted(set(getattr(config, "layer_types", None) or ()) - _BOTH_WAYS)
    if one_way:
        raise ModelError(
            f"{origin}: {config.model_type} has layers of type {', '.join(one_way)}, which do not see all of a row"
        )
    text_config = config.get_text_config()
    window = getattr(text_config, "sliding_window", None)
    layer_types = getattr(text_config, "layer_types", None) or ("sliding_attention",)
    longest = getattr(text_config, "max_position_embeddings", None)
    if window is not None and "sliding_attention" in layer_types and (longest is None or window < longest):
        raise ModelError(
            f"{origin}: layers of this {config.model_type} look at a window of {window} tokens only; set "
            "sliding_window to null in its configuration (and every entry of layer_types to full_attention) to let "
            "them see whole rows"
        )


def make_bidirectional(config: PreTrainedConfig, *, mask_token_id: int | None) -> None:
    """Let ``config`` say that attention looks both ways and that nothing is cached."""
    text_config = config.get_text_config()
    for part in {id(config): config, id(text_config): text_config}.values():
        part.is_causal = False
        part.use_cache = False
        part.mask_token_id = getattr(part, "mask_token_id", None) if mask_token_id is None else mask_token_id


def check_implementation(implementation: str) -> None:
    """Refuse attention implementations that cannot work here.

    Raises:
        ModelError: flex_attention, which needs masks of its own kind (and whose kernel crashes on the CPU with ours).
    """
    if "flex" in implementation:
        raise ModelError("attn_implementation: flex_attention is not supported; use sdpa or eager")


def _check_report(source: str, report: Any) -> None:
    """Refuse a checkpoint whose tensors are not those of the model, instead of training on random ones."""
    problems = []
    for key, what in (("missing_keys", "are missing"), ("unexpected_keys", "are unknown to the model")):
        names = sorted(report[key])
        if names:
            shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            problems.append(f"{len(names)} tensors {what} ({shown})")
    if report["mismatched_keys"]:
        problems.append(f"{len(report['mismatched_keys'])} tensors have another shape than config.json says")
    if problems:
        raise ModelError(f"{source}: the weights do not fit config.json: {'; '.join(problems)}")
