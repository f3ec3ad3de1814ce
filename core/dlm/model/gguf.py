"""Checkpoints in GGUF, the format of llama.cpp: taken apart into safetensors before anything else is done with them."""

import importlib.util
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from dlm.data.files import PACKAGE_PREFIX, inside_package
from dlm.errors import DataError, ModelError
from dlm.model.checkpoint_sources import foreign_code, quiet_transformers
from dlm.user_paths import user_path

GGUF_SUFFIX = ".gguf"
_NOT_CARRIED_OVER = ("quantization_config", "_name_or_path", "architectures")


def gguf_file_of(src: str | Path) -> Path | None:
    """The file that ``src`` names, if it is one in GGUF: a path, or ``pkg://package/path`` inside a package.

    Raises:
        ModelError: It names one that is not there.
    """
    text = str(src)
    if not text.lower().endswith(GGUF_SUFFIX):
        return None
    try:
        path = inside_package(text) if text.startswith(PACKAGE_PREFIX) else user_path(text)
    except DataError as error:
        raise ModelError(f"{error} (with --no-deps: only the file is needed)") from None
    if not path.is_file():
        raise ModelError(f"{text}: no such file")
    return path


def unpack_gguf(path: Path, folder: Path) -> None:
    """Write a checkpoint folder with the weights of a GGUF file in float32, its configuration and tokenizer.

    Quantised weights become the numbers they stand for.

    Args:
        path: a decoder in GGUF.
        folder: exists.

    Raises:
        ModelError: The package gguf is missing, or transformers cannot read the file.
    """
    if importlib.util.find_spec("gguf") is None:
        raise ModelError(f"{path}: reading GGUF needs the package gguf; install it with: pip install gguf")
    origin: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True}
    with foreign_code(f"{path}: cannot be read"):
        tokenizer = AutoTokenizer.from_pretrained(path.parent, **origin)
        loaded: Any = AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **origin)
    # What was loaded still calls itself quantised, and refuses to be saved.
    settings = {key: value for key, value in loaded.config.to_dict().items() if key not in _NOT_CARRIED_OVER}
    with torch.device("meta"):
        model = type(loaded)(type(loaded.config)(**settings))
    model.load_state_dict(loaded.state_dict(), assign=True)
    model.tie_weights()
    with quiet_transformers():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
