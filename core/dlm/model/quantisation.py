"""Decide whether a checkpoint is quantised (FP8, GPTQ, AWQ, bitsandbytes, ...): dlm refuses those that are."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlm.errors import ModelError

_KEYS = ("quantization_config", "compression_config", "quantization")
"""Keys of ``config.json``, or of a part of it, under which quantisers leave their settings."""

_SIDE_FILES = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
"""Files that GPTQ, AWQ and ModelOpt leave beside the weights."""

_NARROW_DTYPES = re.compile(r"F(8|4)")
"""Dtypes of safetensors that hold a weight only together with its scale."""

_PACKED_NAMES = re.compile(
    r"\.(qweight|qzeros|scales|weight_packed|weight_scale(_inv|_2)?|SCB|absmax|weight\.quant_state\..*|weight\.absmax)$"
)
"""Ends of the names of tensors that belong to a packed weight."""


def refuse_quantised_config(settings: Mapping[str, Any], origin: str) -> None:
    """Refuse a configuration that says that its weights are quantised.

    Args:
        settings: ``config.json`` as it was read.
        origin: Says in the error where it came from.

    Raises:
        ModelError: It is quantised, with the method and what to do.
    """
    parts = [settings, *(part for part in settings.values() if isinstance(part, Mapping))]
    for part in parts:
        for key in _KEYS:
            found = part.get(key)
            if found:
                raise _refusal(origin, _method_of(found), f"config.json has {key}")


def refuse_quantised_weights(folder: Path, dtypes: Mapping[str, str]) -> None:
    """Refuse weights that are quantised although the configuration does not say so.

    Args:
        folder: Of the checkpoint.
        dtypes: By name of the tensor: its dtype, as safetensors calls it.

    Raises:
        ModelError: As :func:`refuse_quantised_config`.
    """
    for name in _SIDE_FILES:
        if (folder / name).is_file():
            raise _refusal(str(folder), "", f"there is a {name}")
    for name, dtype in dtypes.items():
        if _NARROW_DTYPES.match(dtype) or _PACKED_NAMES.search(name):
            raise _refusal(str(folder), dtype if _NARROW_DTYPES.match(dtype) else "", f"tensor {name}")


def _method_of(found: Any) -> str:
    """How the settings of a quantiser call it."""
    if not isinstance(found, Mapping):
        return str(found)
    if found.get("load_in_4bit") or found.get("load_in_8bit"):
        return "bitsandbytes"
    return str(found.get("quant_method") or found.get("quant_algo") or "by an unnamed method")


def _refusal(origin: str, method: str, evidence: str) -> ModelError:
    how = f" ({method})" if method else ""
    return ModelError(
        f"{origin}: the checkpoint is quantised{how}: {evidence}; dlm trains weights at full precision: take the "
        "checkpoint it was made from (bfloat16 or float32), or a GGUF of it, which `dlm convert` turns into numbers"
    )
