"""What a class must be to become a component."""

from typing import Any, ClassVar

import attrs
import pytest
from torch import Tensor

from dlm_plugins import KINDS, AttentionBias, LossOutput, LossView, MaskFunction, NoiseSchedule, SequenceLayout
from dlm_plugins.validation import component_problems


@attrs.frozen(kw_only=True)
class Good:
    """A schedule to derive slips from."""

    slope: float = 1.0

    def mask_rate(self, t: Tensor) -> Tensor:
        return t

    def mask_rate_derivative(self, t: Tensor) -> Tensor:
        return t


@attrs.frozen(kw_only=True)
class Renamed(Good):
    """Another parameter name."""

    def mask_rate(self, time: Tensor) -> Tensor:
        return time


@attrs.frozen(kw_only=True)
class Extended(Good):
    """One parameter more than is passed."""

    def mask_rate(self, t: Tensor, step: int) -> Tensor:
        return t


@attrs.frozen(kw_only=True)
class DefaultedParameter(Good):
    """One parameter more, which nobody has to pass."""

    def mask_rate(self, t: Tensor, clip: bool = False) -> Tensor:
        return t


@attrs.frozen(kw_only=True)
class Static(Good):
    """The same parameters without self."""

    @staticmethod
    def mask_rate(t: Tensor) -> Tensor:
        return t


@attrs.frozen(kw_only=True)
class Constant(Good):
    """Not a method."""

    mask_rate: ClassVar[float] = 0.5


@attrs.frozen(kw_only=True)
class Half:
    """One method of two."""

    def mask_rate(self, t: Tensor) -> Tensor:
        return t


@attrs.frozen(kw_only=True)
class OnlyInherits(NoiseSchedule):
    """The protocol's stubs are not an implementation."""


@attrs.frozen(kw_only=True)
class Undocumented(Good):
    slope: float = 1.0


class Plain:
    """Not an attrs class."""


@attrs.frozen(kw_only=True)
class NamedName(Good):
    """An option that the run file uses itself."""

    name: str = "x"


@attrs.frozen(kw_only=True)
class Untyped(Good):
    """An option that cannot be checked."""

    width = attrs.field(default=1)
    slope = attrs.field(default=1.0)


@attrs.frozen(kw_only=True)
class Dangling(Good):
    """An option whose type does not exist."""

    width: "Missing" = 1  # noqa: F821  # this is the slip


@attrs.frozen(kw_only=True)
class Required(Good):
    """An option that must be given."""

    width: int


@attrs.frozen(kw_only=True)
class Private(Good):
    """An option nobody can write."""

    _width: int = 1


@attrs.frozen
class Positional(Good):
    """An option that could be passed by position."""

    width: int = 1


@attrs.define(kw_only=True)
class Mutable:
    """Options that can be changed."""

    def mask_rate(self, t: Tensor) -> Tensor:
        return t

    def mask_rate_derivative(self, t: Tensor) -> Tensor:
        return t


@attrs.frozen(kw_only=True)
class Refusing(Good):
    """Defaults that its own validator refuses."""

    width: int = attrs.field(default=-1, validator=attrs.validators.ge(0))


@attrs.frozen(kw_only=True)
class Overclaiming(Good):
    """A claim of the wrong type."""

    covers_unit_interval: ClassVar[Any] = "yes"


@attrs.frozen(kw_only=True)
class Meddling(Good):
    """An optional method with other parameters."""

    def incompatibilities(self, run: object, strict: bool) -> list[str]:
        return []


SLIPS = [
    (Renamed, "Renamed.mask_rate takes (time), the contract passes (t)"),
    (Extended, "Extended.mask_rate takes (t, step), the contract passes (t)"),
    (Constant, "Constant.mask_rate is 0.5, not a method"),
    (Half, "Half has no method 'mask_rate_derivative', which the contract of noise_schedule asks for"),
    (OnlyInherits, "OnlyInherits has no method 'mask_rate'"),
    (Undocumented, "Undocumented has no docstring"),
    (Plain, "Plain is not an attrs class; decorate it with @attrs.frozen(kw_only=True)"),
    (Good(), "not a class"),
    (lambda: Good(), "not a class"),
    (NamedName, "option 'name' is reserved"),
    (Untyped, "option 'width' has no type"),
    (Dangling, "the types of its options cannot be resolved: name 'Missing' is not defined"),
    (Required, "option 'width' has no default"),
    (Private, "option '_width' starts with an underscore"),
    (Positional, "option 'width' is not keyword-only"),
    (Mutable, "Mutable is not frozen"),
    (Refusing, "Refusing cannot be built with its defaults: ValueError: 'width' must be >= 0: -1"),
    (Overclaiming, "Overclaiming.covers_unit_interval is 'yes'; the claim is of type bool"),
    (Meddling, "Meddling.incompatibilities takes (run, strict), the contract passes (run)"),
]


@pytest.mark.parametrize(
    ("cls", "message"), SLIPS, ids=[message.split()[0].strip("'") + str(i) for i, (_, message) in enumerate(SLIPS)]
)
def test_a_slip_is_named(cls: object, message: str) -> None:
    problems = component_problems(KINDS["noise_schedule"], cls)
    assert any(message in problem for problem in problems), problems


@pytest.mark.parametrize("cls", [Good, DefaultedParameter, Static])
def test_a_class_that_keeps_the_contract_passes(cls: type) -> None:
    assert component_problems(KINDS["noise_schedule"], cls) == []


def test_all_slips_of_a_class_are_named_at_once() -> None:
    @attrs.frozen
    class Many:
        name: str

    assert len(component_problems(KINDS["masking"], Many)) == 5


def test_the_keys_that_the_core_uses_in_a_section_are_reserved_there_only() -> None:
    @attrs.frozen(kw_only=True)
    class Warm(Good):
        """A schedule and an optimizer by its looks."""

        warmup_ratio: float = 0.1
        lr: float = 0.1

        def build(self, groups: object) -> object:
            return groups

    assert component_problems(KINDS["noise_schedule"], Warm) == []
    assert component_problems(KINDS["optimizer"], Warm) == [
        "option 'warmup_ratio' is reserved: the run file uses this key itself; call it something else"
    ]


def test_an_optimizer_needs_a_learning_rate() -> None:
    @attrs.frozen(kw_only=True)
    class Ratefree:
        """No peak learning rate to schedule."""

        def build(self, groups: object) -> object:
            return groups

    problems = component_problems(KINDS["optimizer"], Ratefree)
    assert problems == [
        f"{Ratefree.__qualname__} has no attribute or option 'lr', which the contract of optimizer asks for"
    ]


def test_a_layered_bias_is_checked_by_its_own_protocol() -> None:
    @attrs.frozen(kw_only=True)
    class Layered:
        """Another bias for each layer."""

        def mask_function(self, layout: SequenceLayout) -> MaskFunction | None:
            return None

        def for_layer(self, layer: int) -> AttentionBias:
            return self

    problems = component_problems(KINDS["attention_bias"], Layered)
    assert problems == [f"{Layered.__qualname__}.for_layer takes (layer), the contract passes (index)"]


def test_a_method_of_another_kind_is_nobodys_business() -> None:
    @attrs.frozen(kw_only=True)
    class Lossy:
        """A loss with a method that only means something for a bias."""

        def __call__(self, view: LossView) -> LossOutput:
            raise NotImplementedError

        def for_layer(self, which: str, when: int) -> None:
            """Unrelated."""

    assert component_problems(KINDS["loss"], Lossy) == []
