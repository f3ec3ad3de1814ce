"""A few parameters with a quadratic loss, on which optimizers are tried."""

import copy

import attrs
import torch
from torch import Tensor, nn

from dlm_plugins.optimizer import ParameterGroup

_SHAPES = {"embed_tokens.weight": (64, 64), "layers.0.proj.weight": (16, 8), "norm.weight": (8,), "proj.bias": (16,)}


@attrs.frozen(kw_only=True, eq=False)
class ToyModel:
    """An embedding large enough for 8-bit state (4,096 elements), a matrix, a norm and a bias."""

    parameters: dict[str, nn.Parameter]

    def groups(self) -> list[ParameterGroup]:
        """As the core gives them: the embedding, what decays, what does not."""
        names = [["embed_tokens.weight"], ["layers.0.proj.weight"], ["norm.weight", "proj.bias"]]
        return [
            ParameterGroup(
                parameters={name: self.parameters[name] for name in members},
                decays=index < 2,
                is_embedding=index == 0,
            )
            for index, members in enumerate(names)
        ]

    def loss(self) -> Tensor:
        """Half the squared distance to 0.5, a mean over each tensor."""
        return torch.stack([((parameter - 0.5) ** 2).mean() / 2 for parameter in self.parameters.values()]).sum()

    def values(self) -> dict[str, Tensor]:
        """A copy of all parameters."""
        return {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    def copy(self) -> "ToyModel":
        """The same values in parameters of their own."""
        return copy.deepcopy(self)


def toy_model() -> ToyModel:
    """The same start every time, well away from the optimum."""
    generator = torch.Generator().manual_seed(0)
    return ToyModel(
        parameters={name: nn.Parameter(1 + torch.rand(shape, generator=generator)) for name, shape in _SHAPES.items()}
    )
