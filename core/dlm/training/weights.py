"""How the weights of a run get into a folder, and back."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import attrs
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from dlm.errors import CheckpointError
from dlm.model.sources import quiet_transformers

WEIGHTS_FILE = "model.safetensors"


class Weights(Protocol):
    """What of a model a checkpoint holds."""

    def write(self, folder: Path) -> None:
        """Write weights and configuration."""
        ...

    def read(self, folder: Path) -> None:
        """Take the weights of a checkpoint over into the model.

        Raises:
            CheckpointError: They are not those of this model.
        """
        ...

    def tensors(self) -> Iterator[Tensor]:
        """What is written."""
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

    def write(self, folder: Path) -> None:
        """See :class:`Weights`."""
        with quiet_transformers():
            self.model.save_pretrained(folder, max_shard_size="1TB")

    def read(self, folder: Path) -> None:
        """See :class:`Weights`."""
        weights = load_file(folder / WEIGHTS_FILE)
        missing, unexpected = self.model.load_state_dict(weights, strict=False)
        tied = set(self.model.all_tied_weights_keys)
        if unexpected or set(missing) - tied:
            raise CheckpointError(f"{folder}: {WEIGHTS_FILE} has other tensors than the model of this run")

    def tensors(self) -> Iterator[Tensor]:
        """See :class:`Weights`."""
        return iter(self.model.state_dict().values())

    def facts(self) -> dict[str, object]:
        """See :class:`Weights`."""
        return {}

    def usage(self, folder: Path) -> list[str]:
        """See :class:`Weights`."""
        return [f'dlm generate --model {folder} --prompt "..."']
