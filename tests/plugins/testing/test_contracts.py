"""The test classes that authors subclass, and the kit outside pytest."""

import os
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
import torch
from torch import Tensor

from dlm_plugins.testing import PROPERTIES, NoiseScheduleContract
from dlm_plugins.testing.property_tools import property_name


@attrs.frozen(kw_only=True)
class Power:
    """p = t^exponent."""

    exponent: float = attrs.field(
        default=2.0,
        validator=[attrs.validators.ge(1), attrs.validators.le(4)],
        metadata={"help": "From 1 to 4."},
    )

    def mask_rate(self, t: Tensor) -> Tensor:
        return t**self.exponent

    def mask_rate_derivative(self, t: Tensor) -> Tensor:
        return self.exponent * t ** (self.exponent - 1)


class TestOneInstance(NoiseScheduleContract):
    component = Power()


class TestSeveralInstances(NoiseScheduleContract):
    component = (Power(), Power(exponent=3.0))


class TestClass(NoiseScheduleContract):
    component = Power


@attrs.frozen(kw_only=True)
class Constant(Power):
    """p = 1/2."""

    def mask_rate(self, t: Tensor) -> Tensor:
        return torch.full_like(t, 0.5)


def test_a_contract_class_has_one_test_for_each_property() -> None:
    expected = {f"test_{property_name(check)}" for check in PROPERTIES["noise_schedule"]}
    assert {name for name in dir(TestClass) if name.startswith("test_")} == expected


def test_every_property_says_what_it_asks_for() -> None:
    checks = {check for checks in PROPERTIES.values() for check in checks}
    assert all((check.__doc__ or "").strip() for check in checks)


@pytest.mark.parametrize("component", [Constant(), Constant, [Power(), Constant()]], ids=["instance", "class", "list"])
def test_a_wrong_component_fails_the_test_of_its_property(component: object) -> None:
    contract = type("Contract", (NoiseScheduleContract,), {"component": component})
    with pytest.raises(AssertionError, match=r"^starts_clean: Constant\(exponent=2\.0\): p\(0\) = 0\.5"):
        contract().test_starts_clean()


def test_an_author_may_replace_a_test() -> None:
    contract = type("Own", (NoiseScheduleContract,), {"component": Constant, "test_starts_clean": lambda self: None})
    contract().test_starts_clean()


def test_a_contract_class_without_component_says_what_to_add() -> None:
    contract = type("TestNothing", (NoiseScheduleContract,), {})
    with pytest.raises(AssertionError, match="add `component = YourClass`"):
        contract().test_monotone()


PROGRAM = """
import sys
sys.modules["pytest"] = None
from dlm_builtin_plugins.maskings.bernoulli import BernoulliMasking
from dlm_plugins.testing import check_component
print(check_component("masking", BernoulliMasking))
"""


def test_the_kit_needs_no_pytest_and_leaves_no_folder_behind(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "HYPOTHESIS_STORAGE_DIRECTORY"}
    command = [sys.executable, "-c", PROGRAM]
    result = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600, check=True
    )
    assert result.stdout.strip() == "[]"
    assert list(tmp_path.iterdir()) == []
