"""A sharded model without N copies: built on the meta device, and filled tensor by tensor by the main process (rank 0).

The main process alone reads, resizes, proves and adapts the model, in host memory, exactly as one process would; the
others wait for it, and build the same modules without memory for their weights. Then each parameter in turn is
scattered, and the main process lets go of it: all processes together never hold much more than one model. On several
hosts, the first needs host memory for all of it.
"""

from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from dlm.training.processes import on_main, waiting_for
from dlm.training.weights import Weights

Build = Callable[..., tuple[PreTrainedModel, Weights]]
"""Makes a model; given ``empty_with``, the facts of one with contents, it makes one on the meta device."""


def build_on_meta(build: Build, accelerator: Accelerator) -> tuple[PreTrainedModel, Weights, dict[str, Tensor]]:
    """Build a model that is to be sharded. All processes must call.

    Returns:
        A model whose parameters are on the meta device, what of it is saved, and what belongs into it: by name on the
        main process, empty on the others.

    Raises:
        DlmError: On all processes, where the model cannot be built.
    """
    made: list[tuple[PreTrainedModel, Weights]] = []

    def make() -> dict[str, object]:
        made.append(build())
        return made[0][1].facts()

    facts = on_main(accelerator, make, "the model to be loaded")
    if not made:
        model, weights = build(empty_with=facts)
        return model, weights, {}
    model, weights = made[0]
    contents = {name: parameter.detach() for name, parameter in model.named_parameters()}
    _replace(model, {name: _like(parameter, _on_meta(parameter)) for name, parameter in model.named_parameters()})
    return model, weights, contents


def fill(model: PreTrainedModel, contents: dict[str, Tensor], accelerator: Accelerator) -> None:
    """Give each process its share of a model that is sharded by now. All must call; ``contents`` is used up."""
    filled = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            assert isinstance(parameter, DTensor)
            with waiting_for(accelerator, f"its share of {name}"):
                filled[name] = _like(parameter, _scattered(parameter, contents.pop(name, None), accelerator))
        for name, buffer in model.named_buffers():
            with waiting_for(accelerator, name):
                distributed.broadcast(buffer, src=0)
    _replace(model, filled)


def _scattered(parameter: DTensor, whole: Tensor | None, accelerator: Accelerator) -> DTensor:
    """This process's share of a tensor that the main process holds."""
    device = accelerator.device
    if whole is None:
        whole = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)  # who never writes takes no memory
    share: DTensor = distribute_tensor(whole.to(device), parameter.device_mesh, parameter.placements)
    return share


def _on_meta(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device="meta")


def _like(parameter: Any, tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=parameter.requires_grad)


def _replace(model: nn.Module, new: dict[str, nn.Parameter]) -> None:
    """Put other parameters in the place of those of ``model``; one that is tied stays one."""
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    for module in model.modules():
        for key, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[key] = new[name_of[id(parameter)]]
