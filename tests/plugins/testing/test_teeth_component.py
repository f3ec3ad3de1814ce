"""Components that are not their options, whatever their kind, are caught."""

from collections.abc import Callable

import attrs
import pytest
import torch
from torch import Tensor

from dlm_plugins.testing import check_component


def option(default: float) -> float:
    made: float = attrs.field(default=default, metadata={"help": "Any number."})
    return made


@attrs.frozen(kw_only=True)
class Linear:
    """p = t."""

    def mask_rate(self, t: Tensor) -> Tensor:
        return t.clone()

    def mask_rate_derivative(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)


@attrs.define(kw_only=True, unsafe_hash=True)
class Assignable:
    """Not frozen."""

    scale: float = option(1.0)

    def mask_rate(self, t: Tensor) -> Tensor:
        return t.clone()

    def mask_rate_derivative(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)


@attrs.frozen
class Positional(Linear):
    """Its option can be passed by position."""

    scale: float = option(1.0)


@attrs.frozen(kw_only=True, eq=False)
class Unequal(Linear):
    """Equal whatever its option is: the comparison it inherits does not know of it."""

    scale: float = option(1.0)


@attrs.frozen(kw_only=True)
class Unpicklable(Linear):
    """Refuses to be pickled."""

    def __reduce__(self) -> str:
        raise TypeError("not today")


@attrs.frozen(kw_only=True)
class Unwritable(Linear):
    """An option that YAML cannot hold."""

    device: torch.device = attrs.field(default=torch.device("cpu"), metadata={"help": "Where."})


@attrs.frozen(kw_only=True)
class Undocumented(Linear):
    """An option without help."""

    scale: float = 1.0


@attrs.frozen(kw_only=True)
class Undescribed(Linear):
    __doc__ = None

    scale: float = option(1.0)


WRONG = [
    (Assignable, "frozen"),
    (Positional, "frozen"),
    (Unequal, "equality"),
    (Unpicklable, "pickle_round_trip"),
    (Unwritable, "yaml_round_trip"),
    (Undocumented, "documented"),
    (Undescribed, "documented"),
]


@pytest.mark.parametrize(("cls", "name"), WRONG, ids=lambda value: getattr(value, "__name__", value))
def test_component_that_is_not_its_options_is_caught(
    refute: Callable[[str, type, str], str], cls: type, name: str
) -> None:
    refute("noise_schedule", cls, name)


@attrs.frozen(kw_only=True)
class Demanding(Linear):
    """Cannot be built from its defaults."""

    scale: float = attrs.field(metadata={"help": "Any number."})


def test_missing_default_is_reported_instead_of_raised() -> None:
    (message,) = check_component("noise_schedule", Demanding)
    assert message.startswith("default_options: Demanding() raised TypeError")


@attrs.frozen(kw_only=True)
class WrongBeyondDefaults(Linear):
    """Sound by default; its validator lets exponents through for which p(0) is no longer small."""

    offset: float = attrs.field(
        default=0.0, validator=[attrs.validators.ge(0), attrs.validators.le(0.5)], metadata={"help": "p(0)."}
    )

    def mask_rate(self, t: Tensor) -> Tensor:
        return t * (1 - self.offset) + self.offset

    def mask_rate_derivative(self, t: Tensor) -> Tensor:
        return torch.full_like(t, 1 - self.offset)


def test_options_beyond_the_defaults_are_tried() -> None:
    message, *_ = check_component("noise_schedule", WrongBeyondDefaults)
    assert message.startswith("starts_clean: WrongBeyondDefaults(offset=0.5)")
