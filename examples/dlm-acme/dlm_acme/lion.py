"""Lion in full precision."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs
import torch
from torch.optim import Optimizer

from dlm_plugins import ParameterGroup


class Lion(Optimizer):
    """Steps along the sign of an interpolation between momentum and gradient."""

    def __init__(self, params: Iterable[dict[str, Any]], lr: float, betas: tuple[float, float]) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # of torch
        """One update of every parameter that has a gradient."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                direction = torch.lerp(parameter.grad, momentum, beta1).sign()
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(direction, alpha=-group["lr"])
                momentum.lerp_(parameter.grad, 1 - beta2)
        return loss


def _are_betas(instance: object, attribute: "attrs.Attribute[tuple[float, float]]", value: tuple[float, float]) -> None:
    """Both in [0, 1)."""
    if not all(0 <= beta < 1 for beta in value):
        raise ValueError(f"'betas' must both be in [0, 1): {value}")


@attrs.frozen(kw_only=True)
class LionFactory:
    """Lion in full precision: one moving average, and steps of one size.

    Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms", arXiv:2302.06675. Wants a learning rate 3 to 10
    times below AdamW's, and a weight decay as many times above.
    """

    lr: float = attrs.field(
        default=1e-4, validator=attrs.validators.gt(0), metadata={"help": "Peak learning rate, greater than 0."}
    )
    betas: tuple[float, float] = attrs.field(
        default=(0.9, 0.99),
        validator=_are_betas,
        metadata={"help": "Weight of the momentum in the step, and its decay rate."},
    )
    weight_decay: float = attrs.field(
        default=0.3,
        validator=attrs.validators.ge(0),
        metadata={"help": "Decoupled weight decay, at least 0; never applied to norms and biases."},
    )

    def build(self, groups: Sequence[ParameterGroup]) -> Optimizer:
        """One torch group for each of the contract's groups, in order."""
        return Lion(
            [
                {
                    "params": list(group.parameters.values()),
                    "weight_decay": self.weight_decay if group.decays else 0.0,
                }
                for group in groups
            ],
            lr=self.lr,
            betas=self.betas,
        )
