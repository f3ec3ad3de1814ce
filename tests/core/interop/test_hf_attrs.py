"""The stand-in for attrs in a published modelling file behaves like attrs, as far as it goes."""

from typing import Any

import attrs
import pytest

from dlm.interop.hf_attrs import attrs as stand_in

BOTH = pytest.mark.parametrize("package", [attrs, stand_in], ids=["attrs", "stand-in"])
VALIDATORS: dict[str, tuple[Any, list[Any]]] = {
    "ge": (lambda v: v.ge(1), [0, 1, 2]),
    "gt": (lambda v: v.gt(1), [0, 1, 2]),
    "le": (lambda v: v.le(1), [0, 1, 2]),
    "lt": (lambda v: v.lt(1), [0, 1, 2]),
    "in_": (lambda v: v.in_(("one", "quota")), ["one", "two"]),
    "optional": (lambda v: v.optional(v.gt(0)), [None, 1, 0]),
    "and_": (lambda v: v.and_(v.ge(0), v.le(1)), [-1, 0.5, 2]),
    "several": (lambda v: [v.ge(0), v.le(1)], [-1, 0.5, 2]),
    "deep_iterable": (lambda v: v.deep_iterable(v.ge(0)), [(), (1, 2), (1, -2)]),
}


def accepts(package: Any, validator: Any, value: Any) -> bool:
    @package.frozen(kw_only=True)
    class Options:
        field: Any = package.field(default=None, validator=validator(package.validators))

    try:
        Options(field=value)
    except ValueError as error:
        return "field" not in str(error)  # which would be no reason to be read
    return True


@pytest.mark.parametrize("name", VALIDATORS)
def test_validators_accept_and_refuse_the_same(name: str) -> None:
    validator, values = VALIDATORS[name]
    answers = [[accepts(package, validator, value) for value in values] for package in (attrs, stand_in)]
    assert answers[0] == answers[1]
    assert set(answers[0]) == {True, False}


@BOTH
def test_values_are_converted_computed_and_kept(package: Any) -> None:
    @package.frozen(kw_only=True)
    class Example:
        given: int
        plan: Any = package.field(default=(1,), converter=tuple)
        window: slice = package.field(default=slice(0))
        items: list[int] = package.field(factory=list)
        double: int = package.field()

        @double.default
        def _double(self) -> int:
            return 2 * self.given

    example = Example(given=2, plan=[3, 4])
    assert (example.plan, example.window, example.items, example.double) == ((3, 4), slice(0), [], 4)
    assert Example(given=2, double=7).double == 7
    assert package.evolve(example, given=3).given == 3
    assert [field.name for field in package.fields(Example)] == ["given", "plan", "window", "items", "double"]
    with pytest.raises(TypeError, match="given"):
        Example()
    with pytest.raises(AttributeError):
        example.given = 5


@BOTH
def test_what_is_set_after_the_beginning(package: Any) -> None:
    @package.define(kw_only=True, eq=False)
    class Counter:
        start: int = package.field()
        _count: int = package.field(init=False)

        def __attrs_post_init__(self) -> None:
            self._count = self.start + 1

    assert Counter(start=3)._count == 4
    with pytest.raises(TypeError, match="start"):
        Counter()
