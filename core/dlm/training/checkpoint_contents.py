"""What a checkpoint holds (weights, optimizer, learning rate, random state, fp16 loss scaler): saved and loaded."""

import copy
import logging
import pickle
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import attrs
import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dlm.errors import CheckpointError, ModelError
from dlm.model.checkpoint_sources import STATE_FILE, is_sharded, one_line
from dlm.model.notices import carry_notices
from dlm.training.checkpoints.manifest import NewFolder
from dlm.training.checkpoints.publishing import reached
from dlm.training.checkpoints.tensor_files import Layout
from dlm.training.optimisation import resume_optimizer, resume_scheduler
from dlm.training.randomness import generator_states, restore_generators
from dlm.training.sharding import part, staged
from dlm.training.trainer_state import TrainerState
from dlm.training.weights import Weights, lay_out, read_weights

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.yaml"
OPTIMIZER_FILE = "optimizer.pt"
SCHEDULER_FILE = "scheduler.pt"
RANDOM_FILE = "rng_state.pt"
COMPANION_FILE = "value_model.pt"


@attrs.frozen(kw_only=True)
class Companion:
    """A second model that a run trains beside its own, whole on every process: a value model."""

    module: nn.Module
    optimizer: Optimizer

    def state(self, *, keeps: bool) -> Mapping[str, Any]:
        """A copy of what is saved, if this process keeps it."""
        return dict(staged({"model": self.module.state_dict(), "optimizer": self.optimizer.state_dict()}, keeps=keeps))

    def load(self, saved: Mapping[str, Any], options: Collection[str]) -> None:
        """Go on from there, with the optimizer's ``options`` of this run."""
        self.module.load_state_dict(saved["model"])
        resume_optimizer(self.optimizer, _spread(self.optimizer, saved["optimizer"]), options)


@attrs.frozen(kw_only=True)
class Position:
    """What a checkpoint holds beside tensors, as it was when it was staged."""

    course: Mapping[str, Any]
    """Of the learning rate, and of the loss scaler."""
    generators: Mapping[str, object]
    companion: Mapping[str, Any] | None
    state: str
    """Where the run stands, and what it is: :meth:`TrainerState.text`."""


class Contents(Protocol):
    """What a checkpoint holds, as it was when it was staged: training goes on while it is written."""

    @property
    def num_bytes(self) -> int:
        """About what it takes on the disk."""
        ...

    def write(self, folder: NewFolder, objects: "TrainingObjects") -> None:
        """Write everything the run needs to go on: what the first process does."""
        ...

    def help_to_write(self) -> None:
        """What the other processes do meanwhile."""
        ...

    def dismiss_helpers(self) -> None:
        """Let the others go where the first process could not even begin."""
        ...


@attrs.frozen(kw_only=True)
class WholeContents:
    """A checkpoint as a single Hugging Face folder, with whole tensors: what the first process writes."""

    weights: Mapping[str, torch.Tensor]
    optimizer: Mapping[str, Any]
    position: Position

    @property
    def num_bytes(self) -> int:
        """See :class:`Contents`."""
        tensors = [*self.weights.values(), *_tensors(self.optimizer), *_tensors(self.position.companion)]
        return sum(each.numel() * each.element_size() for each in tensors)

    def write(self, folder: NewFolder, objects: "TrainingObjects") -> None:
        """See :class:`Contents`."""
        objects.write_model(folder, *lay_out(objects.weights, self.weights))
        save(self.optimizer, folder, OPTIMIZER_FILE)
        reached("optimizer written")
        objects.write_position(folder, self.position)

    def help_to_write(self) -> None:
        """See :class:`Contents`: there is nothing to be done."""

    def dismiss_helpers(self) -> None:
        """See :class:`Contents`: nobody helps."""


@attrs.define(kw_only=True)
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
    base: str | None = None
    """What the model was before: whose licence and notices go along."""
    companion: Companion | None = None
    _settings: Mapping[str, bytes] | None = None

    def settings(self) -> Mapping[str, bytes]:
        """The files of a checkpoint that stay the same throughout a run, by name: configuration, tokenizer, notices."""
        if self._settings is None:
            with TemporaryDirectory() as name:
                folder = Path(name)
                self.weights.write_settings(folder)
                self.tokenizer.save_pretrained(folder)
                (folder / CONFIG_FILE).write_text(self.config_text, encoding="utf-8")
                if self.base is not None:
                    self._carry_notices(self.base, folder)
                files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
                self._settings = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
        return self._settings

    def _carry_notices(self, base: str, folder: Path) -> None:
        try:
            carry_notices(base, folder, "Trained by `dlm run`")
        except (OSError, ModelError) as error:
            logger.warning("%s: its licence and notices are not carried along (%s)", base, one_line(error))

    def stage(self, state: TrainerState, *, keeps: bool) -> WholeContents:
        """A copy of what is saved, made whole where it is spread over processes. All of them must call.

        Args:
            state: where the run stands.
            keeps: whether this process is the one that writes.
        """
        return WholeContents(
            weights=staged(self.weights.tensors(), keeps=keeps),
            optimizer=staged(self.optimizer.state_dict(), keeps=keeps),
            position=self.position(state),
        )

    def position(self, state: TrainerState) -> Position:
        """A copy of what is saved beside tensors."""
        scaler = self.accelerator.scaler
        course = {"scheduler": self.scheduler.state_dict(), "scaler": scaler and scaler.state_dict()}
        text = state.text(self.identity)
        keeps = bool(self.accelerator.is_main_process)
        companion = None if self.companion is None else self.companion.state(keeps=keeps)
        return Position(course=copy.deepcopy(course), generators=generator_states(), companion=companion, state=text)

    def write_model(self, folder: NewFolder, layout: Layout, values: Iterator[torch.Tensor]) -> None:
        """Write a Hugging Face folder: weights, configuration, tokenizer, and the resolved run file.

        Args:
            folder: takes the files.
            layout: of :func:`dlm.training.weights.lay_out`, like the values.
            values: the weights, one after the other.

        Raises:
            NonFiniteError: A parameter is not finite; such a model is never published.
        """
        layout.write(folder, values, f"{self.weights.file}.index.json")
        reached("model written")
        self.write_settings(folder)

    def write_settings(self, folder: NewFolder) -> None:
        """Write the files that stay the same throughout a run."""
        for name, content in self.settings().items():
            (folder.path / name).parent.mkdir(parents=True, exist_ok=True)
            with folder.create(name) as file:
                file.write(content)
        reached("settings written")

    def write_position(self, folder: NewFolder, position: Position) -> None:
        """Write what is no tensor."""
        save(position.course, folder, SCHEDULER_FILE)
        save(position.generators, folder, RANDOM_FILE)
        if position.companion is not None:
            save(position.companion, folder, COMPANION_FILE)
        with folder.create(STATE_FILE) as file:
            file.write(position.state.encode())

    def read_checkpoint(self, folder: Path) -> None:
        """Restore weights, optimizer, learning rate and generators. Nothing is unpickled.

        Raises:
            CheckpointError: The checkpoint does not fit the model or the optimizer of this run.
        """
        try:
            if is_sharded(folder):
                from dlm.training.sharded_contents import read_shards  # torch's machinery is slow to import

                read_shards(folder, self)
            else:
                read_weights(self.weights, folder)
                self.resume_optimizer(_spread(self.optimizer, load(folder / OPTIMIZER_FILE)))
            if self.companion is not None:
                self.companion.load(load(folder / COMPANION_FILE), self._keys_below("rl.value.optimizer"))
            course = load(folder / SCHEDULER_FILE)
            resume_scheduler(self.scheduler, course["scheduler"])
            if self.accelerator.scaler is not None and course["scaler"]:
                self.accelerator.scaler.load_state_dict(course["scaler"])
            restore_generators(load(folder / RANDOM_FILE))
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
            raise CheckpointError(f"{folder}: cannot be restored into this run ({error})") from None

    def resume_optimizer(self, saved: Mapping[str, Any]) -> None:
        """Go on with the state of the optimizer, spread as its parameters are."""
        resume_optimizer(self.optimizer, saved, self._keys_below("optim"))

    def _keys_below(self, section: str) -> set[str]:
        return {key.removeprefix(f"{section}.") for key in self.identity if key.startswith(f"{section}.")}


def _spread(optimizer: Optimizer, saved: Mapping[str, Any]) -> dict[str, Any]:
    """An optimizer's state with each tensor spread as its parameter is, in memory of its own: not the file's."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    known: dict[int, torch.Tensor] = {}  # several parameters may share a tensor, and go on to

    def own(value: Any, parameter: torch.Tensor) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if id(value) not in known:
            known[id(value)] = part(value, parameter) if value.shape == parameter.shape else value.clone()
        return known[id(value)]

    state = {
        number: {name: own(value, parameters[number]) for name, value in values.items()}
        for number, values in saved["state"].items()
    }
    return {**saved, "state": state}


def save(content: Mapping[str, object], folder: NewFolder, name: str) -> None:
    """Write what :func:`load` reads."""
    # Through a file of Python's: torch's own does not say why it cannot write.
    with folder.create(name) as file:
        torch.save(content, file)


def _tensors(tree: object) -> Iterator[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, (Mapping, list, tuple)):
        for value in tree.values() if isinstance(tree, Mapping) else tree:
            yield from _tensors(value)


def load(path: Path) -> dict[str, Any]:
    """What was saved; nothing is unpickled, and tensors are views of the file."""
    loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return loaded
