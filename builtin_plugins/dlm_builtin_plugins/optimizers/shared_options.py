"""What optimizers share: options (learning rate, betas, eps, weight decay) with bounds; which groups get decay."""

from collections.abc import Sequence
from typing import Any

import attrs

from dlm_plugins import ParameterGroup


def _are_betas(instance: object, attribute: "attrs.Attribute[tuple[float, float]]", value: tuple[float, float]) -> None:
    if not all(0 <= beta < 1 for beta in value):
        raise ValueError(f"'betas' must both be in [0, 1): {value}")


def learning_rate(default: float) -> Any:
    """Field of the peak learning rate."""
    return attrs.field(
        default=default, validator=attrs.validators.gt(0), metadata={"help": "Peak learning rate, greater than 0."}
    )


def weight_decay() -> Any:
    """Field of the decoupled weight decay."""
    return attrs.field(
        default=0.1,
        validator=attrs.validators.ge(0),
        metadata={"help": "Decoupled weight decay, at least 0; never applied to norms and biases."},
    )


def betas(first: float, second: float) -> Any:
    """Field of the two decay rates."""
    return attrs.field(
        default=(first, second),
        validator=_are_betas,
        metadata={"help": "Decay rates of the two moving averages, in [0, 1)."},
    )


def eps() -> Any:
    """Field of the number that keeps Adam's division safe."""
    return attrs.field(
        default=1e-8,
        validator=attrs.validators.gt(0),
        metadata={"help": "Added to the denominator, greater than 0."},
    )


def torch_groups(groups: Sequence[ParameterGroup], weight_decay: float) -> list[dict[str, Any]]:
    """One group of ``torch.optim`` for each of ``groups``, in order; no decay where the group says so."""
    return [
        {"params": list(group.parameters.values()), "weight_decay": weight_decay if group.decays else 0.0}
        for group in groups
    ]
