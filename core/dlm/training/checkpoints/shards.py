"""Sharded checkpoints (DCP): each process writes its part to a safetensors file of its own; any number reads them.

torch's Distributed Checkpoint plans who writes and reads what. The files are those of its ``HuggingFaceStorageReader``:
nothing is pickled, there is no file that describes the others, and what is read comes by mmap. Its own writer needs the
shard twice in memory, and would have to be read again for the manifest.
"""

import dataclasses
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint._hf_utils import CUSTOM_METADATA_KEY, SAVED_OFFSETS_KEY
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import StorageWriter, WriteResult
from torch.futures import Future

from dlm.training.checkpoints.manifest import NewFolder
from dlm.training.checkpoints.tensor_files import finite, write_safetensors


class _ShardWriter(StorageWriter):
    """Writes what the plan gives to this process; the first one hears the hashes of all."""

    def __init__(self, folder: NewFolder, stem: str, local: Mapping[str, Tensor], *, is_model: bool) -> None:
        self._folder, self._stem, self._local, self._is_model = folder, stem, local, is_model

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Nothing is kept from one save to the next."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Roles make no difference."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        names = [f"{self._stem}-{number:05}-of-{len(plans):05}.safetensors" for number in range(1, len(plans) + 1)]
        return [dataclasses.replace(plan, storage_data=name) for plan, name in zip(plans, names, strict=True)]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write the file of this process, and make it durable: only the host that wrote it can."""
        places = {item.index.fqn: item for item in plan.items}
        names = sorted(places, key=lambda name: (-self._local[name].itemsize, name))
        group = {name: self._local[name] for name in names}
        offsets = {name: {SAVED_OFFSETS_KEY: list(places[name].index.offset or ())} for name in names}
        results: list[WriteResult] = []
        if group:
            with self._folder.create(plan.storage_data) as file:
                values = (finite(name, each) if self._is_model else each for name, each in group.items())
                write_safetensors(file, group, values, {CUSTOM_METADATA_KEY: json.dumps(offsets)})
                file.flush()
                os.fsync(file.fileno())
            entry = {plan.storage_data: self._folder.entries[plan.storage_data]}
            results = [WriteResult(places[name].index, group[name].nbytes, entry) for name in names]
        future: Future[list[WriteResult]] = Future()
        future.set_result(results)
        return future

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Take in the hashes of all processes."""
        for each in results:
            for result in each[:1]:
                self._folder.entries.update(result.storage_data)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return True


def save_shards(
    folder: NewFolder,
    stem: str,
    tensors: Mapping[str, Tensor],
    local: Mapping[str, Tensor],
    group: ProcessGroup | None,
    *,
    is_model: bool,
) -> None:
    """Write tensors that are spread over processes to ``stem-00001-of-00002.safetensors`` and so on. All must call.

    Args:
        folder: takes the files, and on the first process the hashes of all.
        stem: beginning of their names; a path below the folder.
        tensors: what is saved: shapes, and how they are spread. Values do not matter.
        local: this process's part of each, in memory that does not change.
        group: the processes; None: this one is alone.
        is_model: whether what is not finite is refused.

    Raises:
        NonFiniteError: On all of them: a tensor of a model is not finite.
        OSError: On all of them, where one could not write.
    """
    writer = _ShardWriter(folder, stem, local, is_model=is_model)
    with _quiet(), _as_it_was():
        # In one order: it decides who writes what all have.
        save(dict(sorted(tensors.items())), storage_writer=writer, process_group=group, no_dist=group is None)


class ShardReader:
    """The tensors of a sharded checkpoint, whole or in parts."""

    def __init__(self, folder: Path) -> None:
        self._reader = HuggingFaceStorageReader(str(folder))
        self._metadata = self._reader.read_metadata()

    def tensors(self) -> dict[str, Tensor]:
        """Shape and dtype of each by name, without values."""
        described = self._metadata.state_dict_metadata.items()
        return {
            name: torch.empty(each.size, dtype=each.properties.dtype, device="meta")
            for name, each in described
            if isinstance(each, TensorStorageMetadata)
        }

    def read(self, targets: Mapping[str, Tensor]) -> None:
        """Fill tensors in place, each process its part of those that are spread. All must call."""
        with _quiet(), _as_it_was(), torch.no_grad():
            load(dict(targets), storage_reader=self._reader, no_dist=not distributed.is_initialized())


@contextmanager
def _as_it_was() -> Iterator[None]:
    """Raise what a process raised, instead of torch's collection of it."""
    try:
        yield
    except CheckpointException as error:
        first, _ = next(iter(error.failures.values()))
        raise first from None


@contextmanager
def _quiet() -> Iterator[None]:
    """torch warns where it is told that a process is alone."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield
