"""A sharded model without N copies: built on the meta device, then filled, each process with its share of each tensor.

Where a folder of safetensors holds the very parameters, each process reads its rows of them, and the sharded model is
proved afterwards, by all. Otherwise (from scratch, by a hub name, or where transformers converts tensors) the main
process (rank 0) alone loads the model in host memory as one process would, while the others wait; each parameter in
turn is scattered, and the main process lets go of it. Either way all together never hold much more than one model.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import attrs
import torch
from accelerate import Accelerator
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from dlm.diffusion.objective import DiffusionObjective
from dlm.model.adapter_files import fingerprint_of_tensors
from dlm.model.checkpoint_sources import resolve_source
from dlm.model.load_checks import prove_bidirectional
from dlm.model.stored_parameters import StoredParameters, find_stored, original_name
from dlm.training.processes import on_main, waiting_for
from dlm.training.sharding import lend, part
from dlm.training.weights import Weights

Build = Callable[..., tuple[PreTrainedModel, Weights]]
"""Makes a model; given ``empty_with``, the facts of one with contents, it makes one on the meta device."""


class Contents(Protocol):
    """What belongs into a model on the meta device."""

    @property
    def is_proved(self) -> bool:
        """Whether the model has shown already that it is bidirectional."""
        ...

    def share(self, name: str, parameter: DTensor) -> Tensor:
        """This process's share of a parameter, spread as it is. All processes must call."""
        ...


@attrs.frozen(kw_only=True)
class FromFiles:
    """Each process reads what it needs."""

    stored: StoredParameters
    device: torch.device
    is_proved: bool = False

    def share(self, name: str, parameter: DTensor) -> Tensor:
        """See :class:`Contents`."""
        with self.stored.opened(name, parameter) as saved:
            return part(saved, parameter, self.device).to(parameter.dtype)


@attrs.frozen(kw_only=True)
class FromMain:
    """The main process has them all, and lets go of each that it hands on."""

    tensors: dict[str, Tensor]
    """By name; empty on the other processes."""
    device: torch.device
    is_proved: bool = True

    def share(self, name: str, parameter: DTensor) -> Tensor:
        """See :class:`Contents`."""
        whole = self.tensors.pop(name, None)
        if whole is None:
            # Who never writes takes no memory.
            whole = torch.empty(parameter.shape, dtype=parameter.dtype, device=self.device)
        return distribute_tensor(whole.to(self.device), parameter.device_mesh, parameter.placements)


def build_on_meta(
    build: Build, name_or_path: str | None, accelerator: Accelerator
) -> tuple[PreTrainedModel, Weights, Contents]:
    """Build a model that is to be sharded: with parameters on the meta device. All processes must call.

    Raises:
        DlmError: On all processes, where the model cannot be built.
    """
    source, is_folder = (None, False) if name_or_path is None else resolve_source(name_or_path)
    made: list[tuple[PreTrainedModel, Weights]] = []

    def make() -> tuple[StoredParameters | None, Mapping[str, object]]:
        if is_folder:
            model, weights = build(empty_with={})
            if stored := find_stored(Path(str(source)), model):
                return stored, _facts(weights, model, stored)
        made.append(build())
        return None, made[0][1].facts()

    stored, facts = on_main(accelerator, make, "the model to be loaded")
    if not made:
        model, weights = build(empty_with=facts)
        if stored is not None:
            return model, weights, FromFiles(stored=stored, device=accelerator.device)
        _empty(model)
        return model, weights, FromMain(tensors={}, device=accelerator.device)
    model, weights = made[0]
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    _empty(model)
    return model, weights, FromMain(tensors=tensors, device=accelerator.device)


def _facts(weights: Weights, model: PreTrainedModel, stored: StoredParameters) -> Mapping[str, object]:
    """The facts of weights whose contents are in files."""
    if not weights.facts():
        return {}
    base = ((name, parameter) for name, parameter in model.named_parameters() if parameter.is_meta)
    named = ((original_name(name), stored.whole(name, parameter)) for name, parameter in base)
    return {"base_weights": fingerprint_of_tensors(named)}


def fill(model: PreTrainedModel, contents: Contents, accelerator: Accelerator) -> None:
    """Give each process its share of a model that is sharded by now. All must call."""
    filled = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            filled[name] = parameter
            if parameter.is_meta:
                assert isinstance(parameter, DTensor)
                with waiting_for(accelerator, f"its share of {name}"):
                    filled[name] = _like(parameter, contents.share(name, parameter))
        for name, buffer in model.named_buffers():
            with waiting_for(accelerator, name):
                distributed.broadcast(buffer, src=0)
    _replace(model, filled)


def prove(objective: DiffusionObjective, model: PreTrainedModel, accelerator: Accelerator) -> None:
    """Prove a sharded model on a tiny input. All processes must call.

    Raises:
        ModelError: It is not bidirectional.
    """
    assert isinstance(objective, FSDPModule)
    # Each check has a backward pass of its own; embedding and head are needed by the next one.
    objective.set_reshard_after_backward(False, recurse=False)
    with waiting_for(accelerator, "the proof that the model is bidirectional"):
        lend(objective, lambda: prove_bidirectional(model))
    objective.set_reshard_after_backward(True, recurse=False)


def _empty(model: nn.Module) -> None:
    """Put all parameters on the meta device."""
    _replace(
        model, {name: _like(each, torch.empty_like(each, device="meta")) for name, each in model.named_parameters()}
    )


def _like(parameter: Any, tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=parameter.requires_grad)


def _replace(model: nn.Module, new: dict[str, nn.Parameter]) -> None:
    """Put other parameters in the place of those of ``model``; one that is tied stays one."""
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    for module in model.modules():
        for key, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[key] = new[name_of[id(parameter)]]
