"""Options in words, as ``dlm plugins show`` and the reference print them."""

import enum
from typing import Any, Literal

import attrs
import pytest
from attrs import validators as v

from dlm_plugins.options import as_yaml, options_of
from dlm_plugins.registry import Registry


class Colour(enum.Enum):
    RED = "red"


def even(instance: object, attribute: "attrs.Attribute[int]", value: int) -> None:
    """An even number."""


def _are_sorted(instance: object, attribute: "attrs.Attribute[int]", value: int) -> None: ...


@pytest.mark.parametrize(
    ("validator", "expected"),
    [
        (None, ""),
        (v.ge(0), ">= 0"),
        ([v.gt(0), v.lt(1)], "> 0, < 1"),
        (v.and_(v.gt(0), v.le(1.5)), "> 0, <= 1.5"),
        (v.or_(v.lt(0), v.gt(1)), "< 0 or > 1"),
        (v.optional(v.ge(1)), ">= 1 or null"),
        (v.not_(v.ge(9)), "not >= 9"),
        (v.in_(("a", "b")), "one of a, b"),
        (v.in_({"b", "a"}), "one of a, b"),
        (v.deep_iterable(v.ge(0)), "each >= 0"),
        (v.deep_iterable(v.ge(0), v.min_len(1)), "length >= 1, each >= 0"),
        (v.max_len(3), "length <= 3"),
        (v.matches_re("a+"), "matches a+"),
        (v.instance_of(int), ""),
        (even, "An even number."),
        (_are_sorted, "are sorted"),
    ],
)
def test_a_validator_is_put_into_words(validator: Any, expected: str) -> None:
    @attrs.frozen(kw_only=True)
    class Component:
        option: Any = attrs.field(default=attrs.Factory(lambda: VALUES[expected]), validator=validator)

    assert options_of(Component, Registry(()))[0].check == expected


VALUES: dict[str, Any] = {
    "": 1,
    ">= 0": 1,
    "> 0, < 1": 0.5,
    "> 0, <= 1.5": 1.5,
    "< 0 or > 1": 2,
    ">= 1 or null": None,
    "not >= 9": 3,
    "one of a, b": "a",
    "each >= 0": (1, 2),
    "length >= 1, each >= 0": (1,),
    "length <= 3": "abc",
    "matches a+": "aaa",
    "An even number.": 2,
    "are sorted": 2,
}


@attrs.frozen(kw_only=True)
class Typed:
    """Options of many types."""

    number: float = 1e-8
    pair: tuple[float, float] = (0.9, 0.95)
    choice: Literal["first", "second"] = "first"
    maybe: int | None = None
    colour: Colour = Colour.RED
    derived: int = attrs.field(init=False, default=3)


def test_types_and_defaults_read_as_in_yaml() -> None:
    described = {each.name: (each.type, as_yaml(each.default)) for each in options_of(Typed, Registry(()))}
    assert described == {
        "number": ("float", "1.0e-08"),
        "pair": ("tuple[float, float]", "[0.9, 0.95]"),
        "choice": ("'first' | 'second'", "first"),
        "maybe": ("int | None", "null"),
        "colour": ("Colour", "red"),
    }
