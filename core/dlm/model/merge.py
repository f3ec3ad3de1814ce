"""Merge LoRA adapters into their base (``dlm merge``): one whole model that needs nothing else."""

import json
from pathlib import Path
from typing import Any

import attrs
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dlm.errors import ModelError
from dlm.model.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, BASE_FINGERPRINT, PREFIX, fingerprint_of
from dlm.model.body_and_head import num_parameters
from dlm.model.checkpoint_sources import foreign_code, quiet_transformers
from dlm.model.foreign_config import load_model_config
from dlm.model.load_model import load_model
from dlm.model.new_folder import check_destination, published
from dlm.model.notices import carry_notices
from dlm.model.tokenizer import ensure_mask_token, fit_vocabulary, load_tokenizer
from dlm.user_paths import user_path

_PLAIN: dict[str, object] = {
    "use_dora": False,
    "use_rslora": False,
    "lora_bias": False,
    "fan_in_fan_out": False,
    "rank_pattern": {},
    "alpha_pattern": {},
    "bias": "none",
}
"""Settings of peft that would change what the adapters compute, with the values they have in plain LoRA."""


@attrs.frozen(kw_only=True)
class MergeReport:
    """What a merge did."""

    base: str
    destination: str
    model_class: str
    num_adapters: int
    num_parameters: int
    dtype: str


def merge(adapter: str | Path, out: str | Path, *, base: str | None = None) -> MergeReport:
    """Add every adapter to the layer it belongs to: W + alpha / r * B A, summed in float32 or wider.

    The result is a folder like ``final`` of a run without adapters, in the dtype the adapters were trained in: it
    loads, samples, and trains on. Licence and notices in a base's folder are copied along.

    Args:
        adapter: folder with adapters that ``dlm run`` wrote.
        out: folder to write; absent or empty. It appears whole or not at all.
        base: name or folder of the model the adapters were trained on; None: as they say.

    Raises:
        ModelError: no adapters there, of a kind that cannot be merged, or the base is another one now.
    """
    folder, destination = user_path(adapter), user_path(out)
    settings = _settings_of(folder)
    check_destination(destination)
    origin = base or settings.get("base_model_name_or_path")
    if not origin:
        raise ModelError(f"{folder}: does not say what model it belongs to; name it with --base")
    config = load_model_config(str(folder), local_files_only=True)
    tokenizer = load_tokenizer(folder)
    model: Any = _base_of(folder, origin, config.dtype) if base is None else load_model(base, dtype=config.dtype)
    fit_vocabulary(model, tokenizer, ensure_mask_token(tokenizer, config.mask_token))
    fingerprint = getattr(config, BASE_FINGERPRINT, None)
    if fingerprint != fingerprint_of(model):
        raise ModelError(
            f"{folder}: {origin} is not the model these adapters were trained on (its weights are others); "
            "name that one with --base"
        )
    num_adapters = _add(model, folder, scale=settings["lora_alpha"] / settings["r"])
    delattr(config, BASE_FINGERPRINT)
    config.architectures = [type(model).__name__]
    model.config = config
    with published(destination) as partial:
        with quiet_transformers():
            model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        carry_notices(origin, partial, "Adapters merged by `dlm merge` into weights")
        load_model(partial)
    return MergeReport(
        base=str(origin),
        destination=str(destination),
        model_class=type(model).__name__,
        num_adapters=num_adapters,
        num_parameters=num_parameters(model)[0],
        dtype=str(model.dtype).removeprefix("torch."),
    )


def _base_of(folder: Path, origin: str, dtype: Any) -> Any:
    """The base that the adapters name, if it is still there."""
    try:
        return load_model(origin, dtype=dtype)
    except ModelError as error:
        raise ModelError(f"{error}; {folder} names it as its base: if that was moved, name it with --base") from error


def _settings_of(folder: Path) -> dict[str, Any]:
    """peft's configuration, refused if it is no plain LoRA."""
    path = folder / ADAPTER_CONFIG
    try:
        settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{folder}: no adapters here (no {ADAPTER_CONFIG}); a run with `lora` writes them") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from error
    if not isinstance(settings, dict):
        raise ModelError(f"{path}: cannot be read: no JSON object")
    unusual = [key for key, plain in _PLAIN.items() if settings.get(key, plain) != plain]
    if settings.get("peft_type") != "LORA" or unusual or not {"r", "lora_alpha"} <= settings.keys():
        what = f"with {unusual[0]}" if unusual else f"of type {settings.get('peft_type')}"
        raise ModelError(
            f"{path}: adapters {what}; only plain LoRA can be merged, peft's own merge_and_unload does more"
        )
    for key in ("r", "lora_alpha"):
        if isinstance(settings[key], bool) or not isinstance(settings[key], int | float) or not settings[key] > 0:
            raise ModelError(f"{path}: {key} is {settings[key]!r}; it must be a number above 0, as it was in training")
    return settings


def _add(model: nn.Module, folder: Path, *, scale: float) -> int:
    """Add all adapters of ``folder`` to the weights of ``model``; return their number."""
    with foreign_code(f"{folder / ADAPTER_WEIGHTS}: cannot be read"):
        tensors = load_file(folder / ADAPTER_WEIGHTS)
    names = {name.removeprefix(PREFIX).rpartition(".lora_")[0] for name in tensors}
    modules = dict(model.named_modules())
    for name in sorted(names):
        first, second = (tensors.pop(f"{PREFIX}{name}.lora_{side}.weight", None) for side in "AB")
        layer = modules.get(name)
        if first is None or second is None or not isinstance(layer, nn.Linear) or not _fit(layer, first, second):
            raise ModelError(f"{folder}: the adapter of {name!r} is incomplete, or belongs to another model")
        _add_one(layer.weight, first, second, scale)
    if tensors:
        raise ModelError(f"{folder}: {next(iter(tensors))} is no part of an adapter")
    return len(names)


def _fit(layer: nn.Linear, first: Tensor, second: Tensor) -> bool:
    """Whether A (r, in) and B (out, r) are those of a layer."""
    return (
        first.ndim == second.ndim == 2
        and first.shape[0] == second.shape[1]
        and (second.shape[0], first.shape[1]) == tuple(layer.weight.shape)
    )


def _add_one(weight: Tensor, first: Tensor, second: Tensor, scale: float) -> None:
    wide = torch.promote_types(weight.dtype, torch.float32)
    with torch.no_grad():
        weight.copy_(weight.to(wide) + scale * (second.to(wide) @ first.to(wide)))
