"""Wrong optimizer factories are caught by the property they break."""

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import pytest
import torch
from torch.optim import SGD, AdamW, Optimizer

from dlm_plugins import ParameterGroup
from dlm_plugins.testing import check_component


@attrs.frozen(kw_only=True)
class Adam:
    """AdamW: what the wrong ones vary."""

    lr: float = attrs.field(default=1e-3, validator=attrs.validators.gt(0), metadata={"help": "Peak learning rate."})
    weight_decay: float = attrs.field(default=0.1, validator=attrs.validators.ge(0), metadata={"help": "Decay."})

    def build(self, groups: Sequence[ParameterGroup]) -> Optimizer:
        return AdamW(self.torch_groups(groups), lr=self.lr)

    def torch_groups(self, groups: Sequence[ParameterGroup]) -> list[dict[str, Any]]:
        return [
            {"params": list(group.parameters.values()), "weight_decay": self.weight_decay if group.decays else 0.0}
            for group in groups
        ]


@attrs.frozen(kw_only=True)
class DecaysEverything(Adam):
    """Norms and biases shrink as well."""

    def build(self, groups: Sequence[ParameterGroup]) -> Optimizer:
        return AdamW([{"params": list(group.parameters.values())} for group in groups], self.lr, weight_decay=0.1)


@attrs.frozen(kw_only=True)
class DecaysNothing(Adam):
    """The option is not handed on."""

    def build(self, groups: Sequence[ParameterGroup]) -> Optimizer:
        return AdamW([{"params": list(group.parameters.values())} for group in groups], self.lr, weight_decay=0.0)


@attrs.frozen(kw_only=True)
class IgnoresLearningRate(Adam):
    """Torch's default learning rate."""

    lr: float = attrs.field(default=0.5, validator=attrs.validators.gt(0), metadata={"help": "Peak learning rate."})

    def build(self, groups: Sequence[ParameterGroup]) -> Optimizer:
        return AdamW(self.torch_groups(groups))


@attrs.frozen(kw_only=True)
class MergesGroups(Adam):
    """One group of all parameters."""

    def build(self, groups: Sequence[ParameterGroup]) -> Optimizer:
        return AdamW([each for group in groups for each in group.parameters.values()], lr=self.lr)


@attrs.frozen(kw_only=True)
class ReordersParameters(Adam):
    """By size, so that a saved state lands on other parameters."""

    def build(self, groups: Sequence[ParameterGroup]) -> Optimizer:
        made = self.torch_groups(groups)
        return AdamW(
            [{**group, "params": sorted(group["params"], key=torch.numel, reverse=True)} for group in made], lr=self.lr
        )


@attrs.frozen(kw_only=True)
class FreezesEmbedding(Adam):
    """The embedding is left out of every step."""

    def build(self, groups: Sequence[ParameterGroup]) -> Optimizer:
        optimizer = AdamW(self.torch_groups(groups), lr=self.lr)
        embedding = [each for group in groups if group.is_embedding for each in group.parameters.values()]

        def hide(*_: object) -> None:
            for parameter in embedding:
                parameter.grad = None

        optimizer.register_step_pre_hook(hide)
        return optimizer


@attrs.frozen(kw_only=True)
class Climbs(Adam):
    """Maximises."""

    weight_decay: float = attrs.field(default=0.0, metadata={"help": "Decay."})

    def build(self, groups: Sequence[ParameterGroup]) -> Optimizer:
        return AdamW(self.torch_groups(groups), lr=self.lr, maximize=True)


class FixedRate(SGD):
    """Remembers the learning rate it was built with."""

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.data.sub_(parameter.grad, alpha=self.defaults["lr"])


@attrs.frozen(kw_only=True)
class IgnoresSchedule(Adam):
    """Goes on with the rate it was built with."""

    weight_decay: float = attrs.field(default=0.0, metadata={"help": "Decay."})

    def build(self, groups: Sequence[ParameterGroup]) -> Optimizer:
        return FixedRate(self.torch_groups(groups), lr=self.lr)


class Growing(SGD):
    """Decays with the wrong sign, and counts on every gradient."""

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.mul_(1 + group["lr"] * group["weight_decay"]).sub_(parameter.grad, alpha=group["lr"])


@attrs.frozen(kw_only=True)
class Grows(Adam):
    """Weights grow instead of shrinking."""

    def build(self, groups: Sequence[ParameterGroup]) -> Optimizer:
        return Growing(self.torch_groups(groups), lr=self.lr)


class Forgetful(AdamW):
    """Saves no moments."""

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "state": {}}


@attrs.frozen(kw_only=True)
class ForgetsMoments(Adam):
    """Its state dict leaves the moments out."""

    def build(self, groups: Sequence[ParameterGroup]) -> Optimizer:
        return Forgetful(self.torch_groups(groups), lr=self.lr)


@attrs.frozen(kw_only=True)
class ReturnsFunction(Adam):
    """Builds a recipe instead of an optimizer."""

    def build(self, groups: Sequence[ParameterGroup]) -> Any:
        return lambda: AdamW(self.torch_groups(groups), lr=self.lr)


WRONG = [
    (DecaysEverything, "weight_decay_where_asked"),
    (DecaysNothing, "weight_decay_where_asked"),
    (IgnoresLearningRate, "lr_is_peak"),
    (MergesGroups, "groups_kept"),
    (ReordersParameters, "groups_kept"),
    (ReturnsFunction, "groups_kept"),
    (FreezesEmbedding, "every_parameter_moves"),
    (Grows, "weight_decay_where_asked"),
    (Grows, "every_parameter_moves"),
    (Climbs, "descends"),
    (IgnoresSchedule, "schedule_takes_effect"),
    (ForgetsMoments, "state_round_trip"),
]


@pytest.mark.parametrize(("cls", "name"), WRONG, ids=lambda value: getattr(value, "__name__", value))
def test_wrong_optimizer_is_caught(refute: Callable[[str, type, str], str], cls: type, name: str) -> None:
    refute("optimizer", cls, name)


def test_sound_optimizer_passes() -> None:
    assert check_component("optimizer", Adam) == []


def test_wrong_optimizer_fails_by_its_property_only() -> None:
    (message,) = check_component("optimizer", ForgetsMoments)
    assert "after loading its state it takes other steps" in message
