"""Instances are made from the types and validators of the options."""

import enum
from typing import Literal

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlm_plugins.testing import options_strategy, variants
from dlm_plugins.testing.instances import accepted_values


class Side(enum.Enum):
    LEFT = "left"
    RIGHT = "right"


def _is_even(instance: object, attribute: "attrs.Attribute[int]", value: int) -> None:
    if value % 2:
        raise ValueError(f"must be even: {value}")


@attrs.frozen(kw_only=True)
class Everything:
    """Every type of option that can be varied."""

    share: float = attrs.field(default=0.25, validator=[attrs.validators.gt(0), attrs.validators.le(1)])
    negative: float = attrs.field(default=-3.0, validator=attrs.validators.lt(-2))
    even: int = attrs.field(default=4, validator=[attrs.validators.ge(2), _is_even])
    flag: bool = False
    cap: float | None = attrs.field(default=None, validator=attrs.validators.optional(attrs.validators.ge(1)))
    mode: str = attrs.field(default="a", validator=attrs.validators.in_(["a", "b", "c"]))
    choice: Literal["x", "y"] = "x"
    side: Side = Side.LEFT
    text: str = "free"
    derived: int = attrs.field(init=False, default=7)


def accepted(name: str) -> list[object]:
    return accepted_values(Everything(), getattr(attrs.fields(Everything), name))


def test_numbers_respect_their_bounds_and_touch_those_included() -> None:
    share = accepted("share")
    assert 1.0 in share
    assert all(isinstance(value, float) and 0 < value <= 1 for value in share)
    assert len(share) >= 3
    assert all(isinstance(value, float) and value < -2 for value in accepted("negative"))


@pytest.mark.parametrize("default", [0.0, 0.3, 2.0, 3.7, 100.0])
@pytest.mark.parametrize("bounds", [[], [0.0], [0.0, 100.0]])
def test_a_number_is_tried_at_its_bounds_on_the_way_to_them_and_between_0_and_1(
    default: float, bounds: list[float]
) -> None:
    checks = [attrs.validators.ge, attrs.validators.le]
    validator = [check(bound) for check, bound in zip(checks, bounds, strict=False)]
    cls = attrs.make_class("One", {"x": attrs.field(default=default, type=float, validator=validator)}, frozen=True)
    tried = {default, *accepted_values(cls(), attrs.fields(cls).x)}
    on_the_way = {bound + (default - bound) * share for bound in bounds for share in (0, 0.25, 0.5)}
    assert tried >= on_the_way | {0.1, 0.5}


def test_integers_stay_integers_and_obey_validators_of_any_kind() -> None:
    even = accepted("even")
    assert 2 in even
    assert all(type(value) is int and value >= 2 and value % 2 == 0 for value in even)


def test_choices_are_all_tried() -> None:
    assert accepted("mode") == ["b", "c"]
    assert accepted("choice") == ["y"]
    assert accepted("side") == [Side.RIGHT]
    assert accepted("flag") == [True]


def test_optional_numbers_are_tried_as_numbers() -> None:
    assert accepted("cap")
    assert all(isinstance(value, float) and value >= 1 for value in accepted("cap"))


def test_free_text_keeps_its_default() -> None:
    assert accepted("text") == []


def test_variants_begin_with_the_default_and_differ_in_one_option() -> None:
    default, *others = variants(Everything)
    assert default == Everything()
    assert len(others) == sum(len(accepted(field.name)) for field in attrs.fields(Everything) if field.init)
    for other in others:
        changed = [name for name, value in attrs.asdict(other).items() if value != attrs.asdict(default)[name]]
        assert len(changed) == 1


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_the_strategy_builds_instances_that_the_validators_accept(data: st.DataObject) -> None:
    made = data.draw(options_strategy(Everything))
    attrs.validate(made)
    assert isinstance(made, Everything)


@attrs.frozen(kw_only=True)
class Ordered:
    """Two options that constrain each other."""

    low: float = attrs.field(default=0.0)
    high: float = attrs.field(default=1.0)

    def __attrs_post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError("low must be below high")


@settings(deadline=None, max_examples=30)
@given(options_strategy(Ordered))
def test_the_strategy_leaves_out_combinations_that_are_refused(made: Ordered) -> None:
    assert made.low < made.high
