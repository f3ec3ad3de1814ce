"""Which safetensors files hold a checkpoint's weights (one file, or shards with an index), and their tensors."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import attrs
from safetensors import SafetensorError, safe_open

from dlm.errors import ModelError
from dlm.model.checkpoint_sources import require_safetensors
from dlm.model.quantisation import refuse_quantised_weights

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"


@attrs.frozen(kw_only=True, eq=False)
class CheckpointTensors:
    """Names and contents of a checkpoint's tensors."""

    path: Path
    slices: dict[str, Any]
    """By name: safetensors' slices, which have ``get_shape()``, ``get_dtype()`` and read rows by ``[a:b]``."""
    file_of: dict[str, Path]
    """By name: the file that holds the tensor."""
    tie_word_embeddings: bool | None
    """What ``config.json`` says; None without one."""


def weight_files(path: Path) -> list[Path]:
    """The safetensors files of a checkpoint: a file itself, the shards of an index, or those of a folder.

    This is the one rule for every reader. (transformers prefers a single file to an index, others the index: where a
    folder has both, it holds two models.)

    Raises:
        ModelError: The path is missing or holds no safetensors, a shard of the index is missing, or there is a single
            file beside an index of others.
    """
    if path.is_file():
        if path.suffix != ".safetensors":
            raise ModelError(f"{path}: not a .safetensors file; other formats are never unpickled")
        return [path]
    if not path.is_dir():
        raise ModelError(f"{path}: no such file or folder")
    require_safetensors(path)
    if (path / _INDEX).is_file():
        try:
            weight_map: dict[str, str] = json.loads((path / _INDEX).read_text(encoding="utf-8"))["weight_map"]
            files = sorted({path / name for name in weight_map.values()})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{path / _INDEX}: not an index of safetensors files") from error
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise ModelError(f"{path}: {_INDEX} names files that are not there: {', '.join(missing)}")
        if (path / _SINGLE).exists() and files != [path / _SINGLE]:
            raise ModelError(
                f"{path}: holds two sets of weights, {_SINGLE} and what {_INDEX} names; remove the one "
                "that is not meant"
            )
        return files
    return [path / _SINGLE] if (path / _SINGLE).is_file() else sorted(path.glob("*.safetensors"))


@contextmanager
def open_tensors(path: Path) -> Iterator[CheckpointTensors]:
    """Open a checkpoint for reading, tensor by tensor.

    Args:
        path: A folder (one file, or shards with an index) or a ``.safetensors`` file.

    Raises:
        ModelError: It cannot be read, with the reason.
    """
    slices: dict[str, Any] = {}
    file_of: dict[str, Path] = {}
    with ExitStack() as stack:
        for file in weight_files(path):
            try:
                handle = stack.enter_context(safe_open(file, framework="pt"))
                names = list(handle.keys())
            except (SafetensorError, OSError) as error:
                raise ModelError(f"{file}: not a readable safetensors file: {error}") from error
            for name in names:
                if name in slices:
                    raise ModelError(f"{path}: tensor {name} is in {file_of[name].name} and in {file.name}")
                slices[name] = handle.get_slice(name)
                file_of[name] = file
        yield CheckpointTensors(path=path, slices=slices, file_of=file_of, tie_word_embeddings=_tied(path))


def check_weights(folder: Path) -> None:
    """Refuse a folder whose weights are ambiguous, unreadable or quantised.

    Raises:
        ModelError: As :func:`open_tensors`; or they are quantised.
    """
    with open_tensors(folder) as stored:
        dtypes = {name: str(tensor.get_dtype()) for name, tensor in stored.slices.items()}
    refuse_quantised_weights(folder, dtypes)


def _tied(path: Path) -> bool | None:
    """Whether the configuration beside the weights ties embedding and head."""
    config_file = (path if path.is_dir() else path.parent) / "config.json"
    if not config_file.is_file():
        return None
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ModelError(f"{config_file}: not readable: {error}") from error
    value = config.get("tie_word_embeddings") if isinstance(config, dict) else None
    return value if isinstance(value, bool) else None
