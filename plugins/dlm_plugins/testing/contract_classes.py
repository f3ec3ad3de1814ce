"""One test class per kind, for pytest: subclass it, and say in one line what is to be tested."""

from collections.abc import Callable
from typing import Any, ClassVar

from dlm_plugins.testing.component_check import PROPERTIES, Check, instances_for
from dlm_plugins.testing.instances import variants
from dlm_plugins.testing.property_tools import property_name


class Contract:
    """Base of the test classes: every subclass has one test method for each property of its kind."""

    kind: ClassVar[str]
    component: ClassVar[Any]
    """What is tested: an instance, several in a list or tuple, or the class, which stands for its default options and
    variations of each option."""

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        for check in PROPERTIES[cls.kind]:
            name = f"test_{property_name(check)}"
            if not hasattr(cls, name):
                setattr(cls, name, _test_method(check))


def _test_method(check: Check) -> Callable[[Contract], None]:
    def test(self: Contract) -> None:
        for instance in _instances(type(self), check):
            check(instance)

    test.__doc__ = check.__doc__
    return test


def _instances(contract: type[Contract], check: Check) -> list[Any]:
    component = getattr(contract, "component", None)
    if component is None:
        raise AssertionError(f"{contract.__name__} tests nothing yet: add `component = YourClass` to its body")
    if isinstance(component, type):
        return instances_for(check, variants(component))
    return list(component) if isinstance(component, list | tuple) else [component]


class NoiseScheduleContract(Contract):
    """Tests of a noise schedule."""

    kind = "noise_schedule"


class MaskingContract(Contract):
    """Tests of a masking."""

    kind = "masking"


class NoiseTypeContract(Contract):
    """Tests of a noise type."""

    kind = "noise_type"


class LossContract(Contract):
    """Tests of a loss."""

    kind = "loss"


class AttentionBiasContract(Contract):
    """Tests of an attention bias."""

    kind = "attention_bias"


class RemaskerContract(Contract):
    """Tests of a remasker."""

    kind = "remasking"


class MetricContract(Contract):
    """Tests of a metric."""

    kind = "metric"


class RewardContract(Contract):
    """Tests of a reward."""

    kind = "reward"


class AdvantageContract(Contract):
    """Tests of an advantage."""

    kind = "advantage"


class OptimizerContract(Contract):
    """Tests of an optimizer factory."""

    kind = "optimizer"
