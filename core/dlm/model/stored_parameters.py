"""Where the safetensors files of a folder hold each parameter of a model; each process reads its rows of it.

Only where a file holds the very tensor: what transformers renames, merges or converts on the way, it has to load.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter

from dlm.model.checkpoint_tensors import check_weights, open_tensors
from dlm.model.tokenizer import extended


@attrs.frozen(kw_only=True)
class StoredParameters:
    """The parameters of a model in the files of a folder."""

    places: Mapping[str, tuple[Path, str]]
    """By the name of the parameter: the file, and the name of the tensor in it."""

    def whole(self, name: str, parameter: Tensor) -> Tensor:
        """A parameter's contents. Rows that the vocabulary has been given are the mean of those in the file."""
        file, tensor_name = self.places[name]
        with safe_open(file, framework="pt") as handle:
            tensor: Tensor = handle.get_tensor(tensor_name).to(parameter.dtype)
        return tensor if tensor.shape == parameter.shape else extended(tensor, parameter.shape[0])

    @contextmanager
    def opened(self, name: str, parameter: Tensor) -> Iterator[Any]:
        """A parameter's contents, of which only what is asked for is read (unless the vocabulary has been extended)."""
        file, tensor_name = self.places[name]
        with safe_open(file, framework="pt") as handle:
            rows = handle.get_slice(tensor_name)
            yield rows if rows.get_shape() == list(parameter.shape) else self.whole(name, parameter)


def find_stored(folder: Path, model: PreTrainedModel) -> StoredParameters | None:
    """Find the parameters of ``model`` in a folder; None where transformers has to load it.

    Args:
        folder: of a model, with ``*.safetensors``.
        model: its parameters are on the meta device, but for those that no checkpoint has (adapters).

    Raises:
        ModelError: Its weights are ambiguous, unreadable or quantised.
    """
    check_weights(folder)
    with open_tensors(folder) as stored:
        shapes = {name: tuple(each.get_shape()) for name, each in stored.slices.items()}
        file_of = dict(stored.file_of)
    if _is_converted(model):
        return None
    places = {}
    for names, parameter in _on_meta(model):
        found = [name for name in dict.fromkeys(_spellings(names, model.base_model_prefix)) if name in shapes]
        if len(found) != 1 or not _fits(shapes[found[0]], parameter, model):
            return None
        places[names[0]] = (file_of[found[0]], found[0])
    if len(places) != len(shapes):
        return None
    return StoredParameters(places=places)


def original_name(name: str) -> str:
    """The name that a parameter had before peft put an adapter beside it."""
    return name.replace(".base_layer.", ".")


def _is_converted(model: PreTrainedModel) -> bool:
    """Whether transformers changes tensors on the way from a file to this model."""
    kept = getattr(model, "_keep_in_fp32_modules", None) or getattr(model, "_keep_in_fp32_modules_strict", None)
    conversions = get_model_conversion_mapping(model, None, None)
    return bool(kept) or any(isinstance(each, WeightConverter) for each in conversions)


def _on_meta(model: nn.Module) -> Iterator[tuple[list[str], nn.Parameter]]:
    """Parameters without contents, each with all its names, the first one first."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return ((names[id(each)], each) for each in model.parameters() if each.is_meta)


def _spellings(names: list[str], prefix: str) -> Iterator[str]:
    """How a checkpoint may call a parameter: it may have been saved from the body alone."""
    for name in map(original_name, names):
        yield name
        yield name.removeprefix(f"{prefix}.")


def _fits(shape: tuple[int, ...], parameter: nn.Parameter, model: PreTrainedModel) -> bool:
    if shape == parameter.shape:
        return True
    head = model.get_output_embeddings()
    ends = (model.get_input_embeddings().weight, getattr(head, "weight", None), getattr(head, "bias", None))
    grows = any(parameter is end for end in ends) and shape[0] < parameter.shape[0]
    return grows and shape[1:] == parameter.shape[1:]
