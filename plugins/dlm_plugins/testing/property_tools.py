"""How a property is stated, tried and reported: as a function that raises ``AssertionError`` with the smallest case."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import attrs
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Flaky
from hypothesis.strategies import SearchStrategy
from torch import Tensor

T = TypeVar("T")
Case = TypeVar("Case")
Answer = TypeVar("Answer")

# The same examples in every run, on every machine: a contract that fails on Tuesdays only is of no use to an author.
_SETTINGS = settings(
    database=None,
    deadline=None,
    derandomize=True,
    report_multiple_bugs=False,
    print_blob=False,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=tuple(HealthCheck),
)


def property_name(check: Callable[..., None]) -> str:
    """The name of the property that ``check`` tries: ``check_monotone`` is ``monotone``."""
    return check.__name__.removeprefix("check_")


def contract_property(check: Callable[[T], None]) -> Callable[[T], None]:
    """Make every failure of ``check`` an ``AssertionError`` that names the property and the component."""
    name = property_name(check)

    @functools.wraps(check)
    def checked(component: T) -> None:
        try:
            check(component)
        except Flaky:
            reason = "answers differently when asked the same again (randomness that is not the request's?)"
            raise AssertionError(f"{name}: {component!r} {reason}") from None
        except AssertionError as error:
            raise AssertionError(f"{name}: {component!r}: {error}") from error.__cause__
        except Exception as error:
            raise AssertionError(f"{name}: {component!r} raised {type(error).__name__}: {error}") from error

    return checked


def at_every_value(check: Callable[[T], None]) -> Callable[[T], None]:
    """Have a property tried at every value of every option, not only at the most telling ones.

    For properties that are cheap, and that hinge on numbers: what is finite, in range, or accurate.
    """
    check.__dict__["at_every_value"] = True
    return check


def is_tried_at_every_value(check: Callable[..., None]) -> bool:
    """Whether ``check`` is marked by ``at_every_value``."""
    return bool(check.__dict__.get("at_every_value", False))


def for_all(cases: SearchStrategy[Case], body: Callable[[Case], None], *, max_examples: int = 20) -> None:
    """Run ``body`` on many cases; on failure shrink, and raise for the smallest case with that case in the message."""

    @settings(_SETTINGS, max_examples=max_examples)
    @given(cases)
    def run(case: Case) -> None:
        try:
            body(case)
        except AssertionError as error:
            raise AssertionError(f"{error}\n  smallest failing case:{_by_field(case)}") from error.__cause__
        except Exception as error:
            message = f"raised {type(error).__name__}: {error}\n  smallest failing case:{_by_field(case)}"
            raise AssertionError(message) from error

    run()


def describe(value: Any) -> str:
    """A compact text of a case: tensors as nested lists, attrs objects field by field."""
    if isinstance(value, Tensor):
        return str(value.tolist())
    if attrs.has(type(value)):
        fields = (field.name for field in attrs.fields(type(value)))
        return "{" + ", ".join(f"{name}: {describe(getattr(value, name))}" for name in fields) + "}"
    return repr(value)


def _by_field(case: Any) -> str:
    """What goes behind a colon: ``describe``, or every field of an attrs object on a line of its own."""
    if not attrs.has(type(case)):
        return f" {describe(case)}"
    lines = [f"{field.name}: {describe(getattr(case, field.name))}" for field in attrs.fields(type(case))]
    return "".join(f"\n    {line}" for line in lines)


def digits(number: Tensor) -> str:
    """A number with as many digits as tell it from its neighbours."""
    return f"{number.item():.{17 if number.dtype == torch.float64 else 9}g}"


def returned(value: object, expected: type[Answer], what: str) -> Answer:
    """``value``, which ``what`` returned; raise unless it is of the expected class."""
    if not isinstance(value, expected):
        names = [type(value).__name__, expected.__name__]
        found, wanted = (f"an {name}" if name[0] in "aeiouAEIOU" else f"a {name}" for name in names)
        raise AssertionError(f"{what} returned {found}, not {wanted}")
    return value


def require_equal(actual: Tensor, expected: Tensor, message: str) -> None:
    """Raise unless both tensors have the same shape and the same values, bit for bit."""
    if not torch.equal(actual, expected):
        raise AssertionError(f"{message}: {describe(actual)} instead of {describe(expected)}")


def require_close(actual: Tensor, expected: Tensor, message: str, *, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    """Raise unless both tensors have the same shape and nearly the same values."""
    if actual.shape != expected.shape or not torch.allclose(actual.double(), expected.double(), rtol=rtol, atol=atol):
        raise AssertionError(f"{message}: {describe(actual)} instead of {describe(expected)}")


def require_tensor(value: object, name: str, shape: torch.Size, dtype: torch.dtype) -> None:
    """Raise unless ``value`` is a tensor of this shape and dtype."""
    if not isinstance(value, Tensor):
        raise AssertionError(f"{name} is a {type(value).__name__}, not a Tensor")
    if value.shape != shape or value.dtype != dtype:
        found, wanted = f"{tuple(value.shape)} {value.dtype}", f"{tuple(shape)} {dtype}"
        raise AssertionError(f"{name} is {found}, not {wanted}")
