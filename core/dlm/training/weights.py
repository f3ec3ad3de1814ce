"""How weights get into a folder and back: all of them, or LoRA adapters alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import attrs
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from dlm.errors import CheckpointError
from dlm.model.checkpoint_sources import quiet_transformers
from dlm.training.sharding import like

WEIGHTS_FILE = "model.safetensors"


class Weights(Protocol):
    """What of a model a checkpoint holds."""

    def write(self, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """Write weights, which are :meth:`tensors` made whole, and configuration."""
        ...

    def read(self, folder: Path) -> None:
        """Take the weights of a checkpoint over into the model.

        Raises:
            CheckpointError: They are not those of this model.
        """
        ...

    def tensors(self) -> dict[str, Tensor]:
        """What is written, on the device, and spread over processes where the model is."""
        ...

    def facts(self) -> dict[str, object]:
        """What must be the same when a run is resumed, beside the run file."""
        ...

    def usage(self, folder: Path) -> list[str]:
        """The commands to try the model out, which is in ``folder``."""
        ...


@attrs.frozen
class WholeWeights:
    """All weights, as a Hugging Face folder."""

    model: PreTrainedModel

    def write(self, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """See :class:`Weights`."""
        with quiet_transformers():
            state = {name: tensor.detach() for name, tensor in tensors.items()}
            self.model.save_pretrained(folder, state_dict=state, max_shard_size="1TB")

    def read(self, folder: Path) -> None:
        """See :class:`Weights`."""
        own = self.tensors()
        saved = load_file(folder / WEIGHTS_FILE)
        weights = {name: like(tensor, own[name]) if name in own else tensor for name, tensor in saved.items()}
        missing, unexpected = self.model.load_state_dict(weights, strict=False)
        tied = set(self.model.all_tied_weights_keys)
        if unexpected or set(missing) - tied:
            raise CheckpointError(f"{folder}: {WEIGHTS_FILE} has other tensors than the model of this run")

    def tensors(self) -> dict[str, Tensor]:
        """See :class:`Weights`."""
        return dict(self.model.state_dict(keep_vars=True))  # the parameters themselves: tied ones are one object

    def facts(self) -> dict[str, object]:
        """See :class:`Weights`."""
        return {}

    def usage(self, folder: Path) -> list[str]:
        """See :class:`Weights`."""
        return [f'dlm generate --model {folder} --prompt "..."']
