"""Copy a checkpoint's weight files, byte by byte where the vocabulary keeps its size."""

import json
import shutil
from collections.abc import Collection
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from transformers import PreTrainedConfig

from dlm.errors import ModelError
from dlm.model.checkpoint_tensors import weight_files
from dlm.model.foreign_config import skeleton
from dlm.model.tokenizer import extended

_INDEX = "model.safetensors.index.json"


def vocabulary_tensor_names(
    config: PreTrainedConfig, stored_names: Collection[str], *, trust_remote_code: bool
) -> set[str]:
    """The tensors with a row for each id: the embedding, and the head where it is stored too.

    Args:
        config: Configuration of the checkpoint.
        stored_names: Names of the tensors in its files.
        trust_remote_code: Whether code from the checkpoint may run.

    Raises:
        ModelError: The embedding cannot be found among the stored tensors.
    """
    model = skeleton(config, trust_remote_code=trust_remote_code)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    wanted = {id(tensor) for tensor in (embedding.weight, head.weight, getattr(head, "bias", None))}
    names = {name for name, tensor in model.named_parameters(remove_duplicate=False) if id(tensor) in wanted}
    # Some checkpoints were saved from the body alone, without its prefix.
    prefix = f"{model.base_model_prefix}."
    names |= {name.removeprefix(prefix) for name in names}
    found = names & set(stored_names)
    if not found:
        raise ModelError("the embedding is not among the stored tensors, so that the vocabulary cannot grow")
    return found


def copy_weights(source: Path, destination: Path, *, resized: Collection[str], num_rows: int) -> None:
    """Copy the weight files of ``source`` to ``destination``.

    Args:
        source: Folder of a checkpoint.
        destination: Folder that exists.
        resized: Names of tensors that get rows appended, each the mean of the old ones. Empty: files are copied whole.
        num_rows: Rows of these tensors afterwards.
    """
    added_bytes = 0
    for file in weight_files(source):
        with safe_open(file, framework="pt") as handle:
            names = list(handle.keys())
            if not set(names) & set(resized):
                shutil.copyfile(file, destination / file.name)
                continue
            tensors = {name: handle.get_tensor(name) for name in names}
            metadata = handle.metadata()
        for name in set(names) & set(resized):
            longer = extended(tensors[name], num_rows)
            added_bytes += longer.nbytes - tensors[name].nbytes
            tensors[name] = longer
        save_file(tensors, destination / file.name, metadata=metadata)
    if (source / _INDEX).is_file():
        index = json.loads((source / _INDEX).read_text(encoding="utf-8"))
        if "total_size" in index.get("metadata", {}):
            index["metadata"]["total_size"] += added_bytes
        (destination / _INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
