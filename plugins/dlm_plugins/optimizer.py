"""Contract of an optimizer: from parameter groups to a ``torch.optim.Optimizer``."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import attrs
from torch import nn
from torch.optim import Optimizer


@attrs.frozen(kw_only=True, eq=False)
class ParameterGroup:
    """Parameters to be treated alike."""

    parameters: Mapping[str, nn.Parameter]
    """Trainable parameters by name, in the order of the model. Tied parameters appear once."""
    decays: bool
    """Whether weight decay applies; False for norms and biases."""
    is_embedding: bool
    """Whether this is the token embedding or vocabulary projection: low-bit optimizers keep its state in 32 bits."""


@runtime_checkable
class OptimizerFactory(Protocol):
    """Options of an optimizer, and how to build it. ``lr`` is the peak learning rate: the core schedules it."""

    @property
    def lr(self) -> float:
        """Peak learning rate, greater than 0."""
        ...

    def build(self, groups: Sequence[ParameterGroup]) -> Optimizer:
        """The optimizer, with one parameter group for each of ``groups``, in order."""
        ...
