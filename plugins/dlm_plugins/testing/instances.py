"""Instances of a component: its defaults, and its options varied within what their validators accept."""

import enum
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
from hypothesis import strategies as st

_FRACTIONS = (0.5, 0.1, 0.0, 1.0, 2.0)
_COUNTS = (0, 1, 2, 3, 8)


def variants(cls: type) -> list[Any]:
    """The default instance, then one for each value of each option, the others at their defaults.

    The most telling values of every option come first: the start of the list is a selection.

    Raises:
        Exception: whatever the constructor raises without arguments.
    """
    default = cls()
    per_option = [accepted_values(default, field) for field in _options(cls)]
    found = [default]
    for rank in range(max(map(len, per_option), default=0)):
        for field, values in zip(_options(cls), per_option, strict=True):
            if rank < len(values):
                found.append(attrs.evolve(default, **{_alias(field): values[rank]}))
    return found


def options_strategy(cls: type) -> st.SearchStrategy[Any]:
    """Instances of ``cls`` with any combination of accepted options, the default being the simplest."""
    default = cls()
    choices = {
        _alias(field): st.sampled_from([getattr(default, field.name), *accepted_values(default, field)])
        for field in _options(cls)
    }
    return (
        st.fixed_dictionaries(choices)
        .map(lambda options: _evolve(default, options))
        .filter(lambda made: made is not None)
    )


def accepted_values(default: object, field: "attrs.Attribute[Any]") -> list[Any]:
    """Values other than the default that the constructor accepts for one option, the most telling first.

    Tried are listed choices, and for numbers the bounds of the validators, points a quarter and half of the way from a
    bound to the default, twice the default, and round numbers, 0.5 and 0.1 among them: a power between 0 and 1 is where
    gradients diverge. Options of other types (paths, nested classes) keep their default.
    """
    value = getattr(default, field.name)
    accepted: list[Any] = []
    for candidate in _candidates(_type_of(default, field), value, list(_validators_of(field.validator))):
        known = any(type(candidate) is type(other) and candidate == other for other in (value, *accepted))
        if not known and _evolve(default, {_alias(field): candidate}) is not None:
            accepted.append(candidate)
    return accepted


def _options(cls: type) -> tuple["attrs.Attribute[Any]", ...]:
    return tuple(field for field in attrs.fields(cls) if field.init)


def _type_of(default: object, field: "attrs.Attribute[Any]") -> object:
    return typing.get_type_hints(type(default)).get(field.name, field.type)


def _alias(field: "attrs.Attribute[Any]") -> str:
    return field.alias or field.name


def _evolve(default: Any, options: dict[str, Any]) -> object | None:
    """The changed instance, or None where its validators refuse."""
    try:
        made: object = attrs.evolve(default, **options)
    except (TypeError, ValueError):
        return None
    return made


def _validators_of(validator: Any) -> Iterator[Any]:
    """The validator and the ones it is composed of (``and_``, ``optional``)."""
    if validator is None:
        return
    yield validator
    inner = getattr(validator, "_validators", None) or getattr(validator, "validator", ())
    for part in inner if isinstance(inner, Sequence) else (inner,):
        yield from _validators_of(part)


def _candidates(option_type: object, value: object, validators: Sequence[Any]) -> Iterator[Any]:
    for validator in validators:
        options = getattr(validator, "options", None)
        if options is not None and not isinstance(options, str):
            yield from options
    arguments = typing.get_args(option_type)
    origin = typing.get_origin(option_type)
    if origin is typing.Literal:
        yield from arguments
    elif origin in (typing.Union, types.UnionType):
        for argument in arguments:
            yield from _candidates(argument, value, validators)
    elif option_type is type(None):
        yield None
    elif option_type is bool:
        yield from (False, True)
    elif isinstance(option_type, type) and issubclass(option_type, enum.Enum):
        yield from option_type
    elif option_type in (int, float):
        yield from _numbers(value, validators, _COUNTS if option_type is int else _FRACTIONS, is_int=option_type is int)


def _numbers(
    value: object, validators: Sequence[Any], round_numbers: Sequence[float], *, is_int: bool
) -> Iterator[float]:
    bounds = [bound for check in validators if isinstance(bound := getattr(check, "bound", None), int | float)]
    numbers = list(bounds)
    if isinstance(value, int | float):
        numbers += [bound + (value - bound) * share for share in (0.25, 0.5) for bound in bounds]
        numbers += [*round_numbers[:1], value * 2]
    for number in (*numbers, *round_numbers):
        yield int(number) if is_int else float(number)
