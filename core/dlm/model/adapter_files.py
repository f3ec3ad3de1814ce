"""A folder with low-rank adapters, as peft reads and writes it, and what dlm keeps beside them."""

import json
import shlex
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dlm.errors import ModelError

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
"""In front of the name of each tensor, by peft's convention."""
BASE_FINGERPRINT = "adapter_base_fingerprint"
"""Key of the configuration: :func:`fingerprint_of` the model that the adapters belong to."""


def refuse_adapters(folder: Path) -> None:
    """Refuse a folder that holds adapters where a whole model is wanted.

    Raises:
        ModelError: It does; the message says what to do.
    """
    if (folder / ADAPTER_CONFIG).is_file():
        raise ModelError(
            f"{folder}: holds adapters, not a whole model; `dlm merge {shlex.quote(str(folder))} --out DIR` makes "
            "one of them and their base"
        )


def write_adapter_config(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write peft's configuration file; the same settings give the same bytes."""
    plain = {key: sorted(value) if isinstance(value, (set, frozenset)) else value for key, value in settings.items()}
    (folder / ADAPTER_CONFIG).write_text(json.dumps(plain, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def fingerprint_of(model: nn.Module) -> str:
    """SHA-256 of all weights of a model: names, dtypes, shapes and bits."""
    return fingerprint_of_tensors(model.named_parameters())


def fingerprint_of_tensors(named: Iterable[tuple[str, Tensor]]) -> str:
    """The same of tensors that are handed over one by one."""
    digest = sha256()
    for name, parameter in named:
        digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}".encode())
        digest.update(parameter.detach().cpu().flatten().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
