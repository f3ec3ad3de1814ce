"""What a checkpoint holds (weights, optimizer, learning rate, random state, fp16 loss scaler): saved and loaded."""

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dlm.errors import CheckpointError, NonFiniteError
from dlm.training.checkpoints.publishing import reached
from dlm.training.randomness import generator_states, restore_generators
from dlm.training.sharding import gathered, like
from dlm.training.trainer_state import TrainerState
from dlm.training.weights import Weights

CONFIG_FILE = "config.yaml"
OPTIMIZER_FILE = "optimizer.pt"
SCHEDULER_FILE = "scheduler.pt"
RANDOM_FILE = "rng_state.pt"


@attrs.frozen(kw_only=True)
class Contents:
    """The tensors of a checkpoint, each of them whole."""

    weights: Mapping[str, torch.Tensor]
    optimizer: Mapping[str, Any]

    @property
    def num_bytes(self) -> int:
        """About what they take on the disk."""
        tensors = [*self.weights.values(), *_tensors(self.optimizer)]
        return sum(each.numel() * each.element_size() for each in tensors)


@attrs.frozen(kw_only=True)
class TrainingObjects:
    """The objects of a run that a checkpoint saves and restores."""

    accelerator: Accelerator
    model: PreTrainedModel
    weights: Weights
    """Of the model: what is saved."""
    tokenizer: PreTrainedTokenizerBase
    optimizer: Optimizer
    scheduler: LRScheduler
    config_text: str
    """The resolved run file."""
    identity: Mapping[str, object]

    def collect(self, *, keeps: bool) -> Contents:
        """The tensors that are saved, made whole where they are spread over processes. All of them must call.

        Args:
            keeps: whether this process is the one that writes.
        """
        weights = gathered(self.weights.tensors(), keeps=keeps)
        return Contents(weights=weights, optimizer=gathered(self.optimizer.state_dict(), keeps=keeps))

    def write_model(self, folder: Path, contents: Contents) -> None:
        """Write a Hugging Face folder: weights, configuration, tokenizer, and the resolved run file.

        Raises:
            NonFiniteError: A parameter is not finite; such a model is never published.
        """
        poisoned = [name for name, value in contents.weights.items() if not torch.isfinite(value).all()]
        if poisoned:
            raise NonFiniteError(f"{poisoned[0]} holds numbers that are not finite; the checkpoint was not published")
        self.weights.write(folder, contents.weights)
        reached("model written")
        self.tokenizer.save_pretrained(folder)
        reached("tokenizer written")
        (folder / CONFIG_FILE).write_text(self.config_text, encoding="utf-8")

    def write_checkpoint(self, folder: Path, state: TrainerState, contents: Contents) -> None:
        """Write everything the run needs to go on."""
        self.write_model(folder, contents)
        scaler = self.accelerator.scaler
        course = {"scheduler": self.scheduler.state_dict(), "scaler": scaler and scaler.state_dict()}
        _save(contents.optimizer, folder / OPTIMIZER_FILE)
        reached("optimizer written")
        _save(course, folder / SCHEDULER_FILE)
        _save(generator_states(), folder / RANDOM_FILE)
        state.write(folder, self.identity)

    def read_checkpoint(self, folder: Path) -> None:
        """Restore weights, optimizer, learning rate and generators. Nothing is unpickled.

        Raises:
            CheckpointError: The checkpoint does not fit the model or the optimizer of this run.
        """
        try:
            self.weights.read(folder)
            self.optimizer.load_state_dict(self._spread(_load(folder / OPTIMIZER_FILE)))
            course = _load(folder / SCHEDULER_FILE)
            self.scheduler.load_state_dict(course["scheduler"])
            if self.accelerator.scaler is not None and course["scaler"]:
                self.accelerator.scaler.load_state_dict(course["scaler"])
            restore_generators(_load(folder / RANDOM_FILE))
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
            raise CheckpointError(f"{folder}: cannot be restored into this run ({error})") from None

    def _spread(self, saved: dict[str, Any]) -> dict[str, Any]:
        """The optimizer's state with each tensor spread as its parameter is."""
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        state = {
            number: {
                name: like(value, parameters[number]) if isinstance(value, torch.Tensor) else value
                for name, value in values.items()
            }
            for number, values in saved["state"].items()
        }
        return {**saved, "state": state}


def _save(content: Mapping[str, object], path: Path) -> None:
    # Through a file of Python's: torch's own does not say why it cannot write.
    with path.open("wb") as file:
        torch.save(content, file)


def _tensors(tree: object) -> Iterator[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, (Mapping, list, tuple)):
        for value in tree.values() if isinstance(tree, Mapping) else tree:
            yield from _tensors(value)


def _load(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return loaded
