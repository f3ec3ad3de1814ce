"""What a sharded checkpoint holds: a share of weights and optimizer from each process, the rest from the first one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, distributed
from torch.distributed import ProcessGroup

from dlm.errors import CheckpointError
from dlm.model.checkpoint_sources import SHARDED_WEIGHTS
from dlm.training.checkpoint_contents import OPTIMIZER_FILE, Position, TrainingObjects, load, save
from dlm.training.checkpoints.manifest import NewFolder
from dlm.training.checkpoints.publishing import reached
from dlm.training.checkpoints.shards import ShardReader, save_shards
from dlm.training.sharding import local_copy
from dlm.training.trainer_state import TrainerState

_OPTIMIZER = "optimizer"
"""Folder of a sharded checkpoint."""
_STEM = "shard"


@attrs.frozen
class Shards:
    """Tensors by name, spread over processes as they are, and a copy of this process's part of each."""

    tensors: Mapping[str, Tensor]
    local: Mapping[str, Tensor]

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Shards":
        """Copy this process's part of ``tensors``."""
        return cls(tensors, {name: local_copy(each) for name, each in tensors.items()})

    def save(self, folder: NewFolder, place: str, group: ProcessGroup | None, *, is_model: bool) -> None:
        """Write the files of all processes, which must call, into the folder's folder ``place``."""
        save_shards(folder, f"{place}/{_STEM}", self.tensors, self.local, group, is_model=is_model)

    @property
    def num_bytes(self) -> int:
        """Of all processes."""
        return sum(each.numel() * each.itemsize for each in self.tensors.values())


@attrs.define(kw_only=True)
class ShardedContents:
    """A checkpoint that all processes write together: see :class:`dlm.training.checkpoint_contents.Contents`."""

    weights: Shards
    optimizer: Shards
    optimizer_rest: Mapping[str, Any]
    position: Position
    group: ProcessGroup | None
    _helpers_wait: bool = True

    @classmethod
    def stage(cls, objects: TrainingObjects, state: TrainerState, group: ProcessGroup | None) -> "ShardedContents":
        """Copy what this process holds of a run."""
        tensors, rest = _named_state(objects.optimizer.state_dict(), _parameter_names(objects))
        return cls(
            weights=Shards.of(objects.weights.tensors()),
            optimizer=Shards.of(tensors),
            optimizer_rest=rest,
            position=objects.position(state),
            group=group,
        )

    @property
    def num_bytes(self) -> int:
        """On the disk that all share."""
        return self.weights.num_bytes + self.optimizer.num_bytes

    def write(self, folder: NewFolder, objects: TrainingObjects) -> None:
        """Write everything the run needs to go on, on the first process; the others are in :meth:`help_to_write`."""
        for name in (SHARDED_WEIGHTS, _OPTIMIZER):
            (folder.path / name).mkdir()
        self._tell(folder.path)
        self._write_tensors(folder)
        save(self.optimizer_rest, folder, OPTIMIZER_FILE)
        objects.write_settings(folder)
        objects.write_position(folder, self.position)

    def help_to_write(self) -> None:
        """Write this process's part where the first one says, or nothing if it never came to that."""
        if (path := self._tell(None)) is not None:
            self._write_tensors(NewFolder(path))

    def dismiss_helpers(self) -> None:
        """Let the others go where the first process failed before it had a folder."""
        if self._helpers_wait:
            self._tell(None)

    def _tell(self, path: Path | None) -> Path | None:
        """What the first process says. All must call."""
        said = [path]
        self._helpers_wait = False
        if self.group is not None:
            distributed.broadcast_object_list(said, src=0, group=self.group)
        return said[0]

    def _write_tensors(self, folder: NewFolder) -> None:
        self.weights.save(folder, SHARDED_WEIGHTS, self.group, is_model=True)
        reached("model written")
        self.optimizer.save(folder, _OPTIMIZER, self.group, is_model=False)
        reached("optimizer written")


def read_shards(folder: Path, objects: TrainingObjects) -> None:
    """Restore weights and optimizer, each process its part, whatever the number of processes that wrote them.

    Raises:
        CheckpointError: They are not those of this run.
    """
    own = objects.weights.tensors()
    reader = ShardReader(folder / SHARDED_WEIGHTS)
    saved = {name: each.shape for name, each in reader.tensors().items()}
    if differing := [name for name in {**own, **saved} if name not in own or own[name].shape != saved.get(name)]:
        raise CheckpointError(f"{folder}: {SHARDED_WEIGHTS} has other tensors than this run trains ({differing[0]})")
    reader.read({name: each.detach() for name, each in own.items()})
    reader = ShardReader(folder / _OPTIMIZER)
    targets = {}
    for name, each in reader.tensors().items():
        parameter = own[name.partition(".")[2]].detach()
        if each.shape == parameter.shape:
            targets[name] = torch.empty_like(parameter, dtype=each.dtype)
        else:
            targets[name] = torch.empty(each.shape, dtype=each.dtype)
    reader.read(targets)
    rest = load(folder / OPTIMIZER_FILE)
    objects.resume_optimizer(_numbered_state(targets, rest, _parameter_names(objects)))


def _parameter_names(objects: TrainingObjects) -> list[str]:
    """The name in the checkpoint of each parameter of the optimizer, by its number there."""
    names = {id(each): name for name, each in objects.weights.tensors().items()}
    return [names[id(each)] for group in objects.optimizer.param_groups for each in group["params"]]


def _named_state(optimizer: Mapping[str, Any], names: list[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state of an optimizer as tensors by name (``exp_avg.model.norm.weight``), and all that is no tensor.

    Args:
        optimizer: its ``state_dict()``, by number of the parameter.
        names: of the parameters in that order.
    """
    state = optimizer["state"].items()
    named = {f"{key}.{names[number]}": value for number, values in state for key, value in values.items()}
    tensors = {name: value for name, value in named.items() if isinstance(value, Tensor)}
    rest = {name: value for name, value in named.items() if name not in tensors}
    return tensors, {**optimizer, "state": rest}


def _numbered_state(tensors: Mapping[str, Tensor], rest: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    """The inverse of :func:`_named_state`."""
    state: dict[int, dict[str, Any]] = {}
    numbers = {name: number for number, name in enumerate(names)}
    for name, value in {**tensors, **rest["state"]}.items():
        key, _, parameter = name.partition(".")
        state.setdefault(numbers[parameter], {})[key] = value
    return {**rest, "state": state}
