"""Make a model of a sharded checkpoint (``dlm merge``): one Hugging Face folder, read and written tensor by tensor."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import attrs
import torch
from torch import Tensor

from dlm.model.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from dlm.model.checkpoint_sources import SHARDED_WEIGHTS, STATE_FILE
from dlm.model.new_folder import check_destination, published
from dlm.model.notices import copy_notices
from dlm.training.checkpoint_contents import OPTIMIZER_FILE, RANDOM_FILE, SCHEDULER_FILE
from dlm.training.checkpoints.manifest import MANIFEST, NewFolder, verify
from dlm.training.checkpoints.shards import ShardReader
from dlm.training.checkpoints.tensor_files import Layout
from dlm.training.weights import WEIGHTS_FILE
from dlm.user_paths import user_path

_OF_THE_RUN = (MANIFEST, OPTIMIZER_FILE, SCHEDULER_FILE, RANDOM_FILE, STATE_FILE)
"""Files of a checkpoint that are no part of the model."""


@attrs.frozen(kw_only=True)
class ConsolidationReport:
    """What was written."""

    destination: str
    num_tensors: int
    num_parameters: int


def consolidate(checkpoint: str | Path, out: str | Path) -> ConsolidationReport:
    """Write the model, or the adapters, of a sharded checkpoint as ``final`` has them.

    Args:
        checkpoint: folder of a sharded checkpoint.
        out: folder to write; absent or empty. It appears whole or not at all.

    Raises:
        CheckpointError: The checkpoint is damaged or incomplete.
        ModelError: ``out`` is not empty.
    """
    folder, destination = user_path(checkpoint), user_path(out)
    verify(folder)
    check_destination(destination)
    reader = ShardReader(folder / SHARDED_WEIGHTS)
    shapes = reader.tensors()
    file = ADAPTER_WEIGHTS if (folder / ADAPTER_CONFIG).exists() else WEIGHTS_FILE
    layout = Layout.of(shapes, file)

    def values() -> Iterator[Tensor]:
        for name in layout.names():
            target = torch.empty(shapes[name].shape, dtype=shapes[name].dtype)
            reader.read({name: target})
            yield target

    with published(destination) as partial:
        layout.write(NewFolder(partial), values(), f"{file}.index.json")
        for path in folder.iterdir():
            if path.is_file() and path.name not in _OF_THE_RUN:
                shutil.copyfile(path, partial / path.name)
        copy_notices(folder, partial)  # folders too
    return ConsolidationReport(
        destination=str(destination),
        num_tensors=len(shapes),
        num_parameters=sum(each.numel() for each in shapes.values()),
    )
