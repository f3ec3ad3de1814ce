"""How weights get into a folder and back: all of them, or LoRA adapters alone; names, files, and what is refused."""

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import attrs
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from dlm.errors import CheckpointError
from dlm.model.checkpoint_sources import quiet_transformers
from dlm.training.checkpoints.tensor_files import Layout, finite, saved_slices
from dlm.training.sharding import part, whole

WEIGHTS_FILE = "model.safetensors"


class Weights(Protocol):
    """What of a model a checkpoint holds."""

    @property
    def file(self) -> str:
        """Name of the file, which gets numbers where there is more than 5 GB of it."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """What is saved: parameters and buffers by name in the file, each once, and spread where the model is."""
        ...

    def published(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same as other tools expect it: joined experts taken apart again."""
        ...

    def write_settings(self, folder: Path) -> None:
        """Write everything of a model's folder that is not a tensor."""
        ...

    def facts(self) -> dict[str, object]:
        """What must be the same when a run is resumed, beside the run file."""
        ...

    def usage(self, folder: Path) -> list[str]:
        """The commands to try the model out, which is in ``folder``."""
        ...


def lay_out(weights: Weights, tensors: Mapping[str, Tensor]) -> tuple[Layout, Iterator[Tensor]]:
    """The files for ``tensors``, and their contents in that order. All processes must ask for each of them.

    Args:
        weights: where the tensors come from.
        tensors: :meth:`Weights.tensors` or a copy of them. Those that are spread over processes are made whole one by
            one, when they are asked for.

    Raises:
        NonFiniteError: By the contents: a parameter is not finite; such a model is never published.
    """
    shapes = weights.published({name: each.new_empty(each.shape, device="meta") for name, each in tensors.items()})
    layout = Layout.of(shapes, weights.file)
    if shapes.keys() != tensors.keys():
        tensors = weights.published({name: whole(each) for name, each in tensors.items()})
    return layout, (finite(name, whole(tensors[name])) for name in layout.names())


@torch.no_grad()
def read_weights(weights: Weights, folder: Path) -> None:
    """Take the weights of a checkpoint over into the model, tensor by tensor: each process reads its part.

    Raises:
        CheckpointError: They are not those of this model.
    """
    own = weights.tensors()
    stem, suffix = Path(weights.file).stem, Path(weights.file).suffix
    read = set()
    for name, saved in saved_slices(sorted(folder.glob(f"{stem}*{suffix}"))):
        if name not in own or tuple(saved.get_shape()) != own[name].shape:
            raise CheckpointError(f"{folder}: {weights.file} has other tensors than this run trains ({name})")
        own[name].copy_(part(saved, own[name]))
        read.add(name)
    if missing := own.keys() - read:
        raise CheckpointError(f"{folder}: {weights.file} lacks tensors that this run trains ({sorted(missing)[0]})")


@attrs.frozen
class WholeWeights:
    """All weights, as a Hugging Face folder."""

    model: PreTrainedModel
    file: str = WEIGHTS_FILE

    def tensors(self) -> dict[str, Tensor]:
        """See :class:`Weights`."""
        named = self.model.state_dict(keep_vars=True)  # the parameters themselves: tied ones are one object
        tied = self.model.all_tied_weights_keys
        return {name: each for name, each in named.items() if name not in tied or each is not named.get(tied[name])}

    def published(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See :class:`Weights`."""
        return dict(revert_weight_conversion(self.model, dict(tensors)))

    def write_settings(self, folder: Path) -> None:
        """See :class:`Weights`."""
        with quiet_transformers():
            self.model.save_pretrained(folder, state_dict={})
        (folder / WEIGHTS_FILE).unlink(missing_ok=True)

    def facts(self) -> dict[str, object]:
        """See :class:`Weights`."""
        return {}

    def usage(self, folder: Path) -> list[str]:
        """See :class:`Weights`."""
        return [f'dlm generate --model {shlex.quote(str(folder))} --prompt "..."']
