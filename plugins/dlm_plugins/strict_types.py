"""Structuring without any coercion: numbers, texts, choices; lists and mappings with every wrong item; unions by shape.

The member of a union is chosen by the shape of the value, never by trying to convert it.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from enum import Enum
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import attrs
from cattrs import Converter

from dlm_plugins.errors import ConfigurationError, Problem
from dlm_plugins.kinds import KINDS
from dlm_plugins.problems import join_path, problems_of, shown
from dlm_plugins.suggestions import did_you_mean

SCALARS: dict[type, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "text",
    type(None): "null",
}
"""The types of YAML's scalars, and what a message calls them."""


def refusal(message: str) -> ConfigurationError:
    """One problem, at the value itself."""
    return ConfigurationError([Problem("", message)])


def structure_scalar(value: object, expected: type) -> object:
    """``value`` itself if it is exactly of the type asked for; an integer is accepted for a float.

    Raises:
        ConfigurationError: for every other type, and for numbers that are not finite.
    """
    if issubclass(expected, Enum):
        return structure_choice(value, expected)
    if expected is float and type(value) in (int, float):
        return _finite(value)
    if type(value) is not expected:
        quoted = isinstance(value, str) and expected in (int, float, bool)
        hint = ", which is text" if quoted else ""
        raise refusal(f"must be {SCALARS[expected]}, not {shown(value)}{hint}")
    return value


def _finite(value: Any) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise refusal(f"must be a finite number, not {shown(value)}")
    return number


def structure_choice(value: object, expected: type[Enum]) -> Enum:
    """The member of an enumeration whose value is ``value``."""
    for member in expected:
        if type(member.value) is type(value) and member.value == value:
            return member
    raise not_among(value, [member.value for member in expected])


def structure_literal(value: object, expected: Any) -> object:
    """``value`` if it is one of the literals, type included: 1 is not true."""
    allowed = get_args(expected)
    if any(type(value) is type(literal) and value == literal for literal in allowed):
        return value
    raise not_among(value, allowed)


def not_among(value: object, allowed: Iterable[object]) -> ConfigurationError:
    """The refusal of a value that is not one of ``allowed``."""
    choices = list(allowed)
    hint = did_you_mean(value, [c for c in choices if isinstance(c, str)]) if isinstance(value, str) else ""
    return refusal(f"must be one of {', '.join(map(_choice, choices))}, not {shown(value)}{hint}")


def _choice(value: object) -> str:
    return value if isinstance(value, str) else shown(value)


Hook = Callable[[Any, Any], Any]

_SEQUENCES: dict[Any, Callable[..., Any]] = {
    list: list,
    tuple: tuple,
    Sequence: tuple,
    set: set,
    frozenset: frozenset,
    Set: frozenset,
}
_MAPPINGS = (dict, Mapping)


def is_sequence(expected: Any) -> bool:
    """Whether a type stands for a list of a run file."""
    return _base(expected) in _SEQUENCES


def is_mapping(expected: Any) -> bool:
    """Whether a type stands for a mapping with free keys."""
    return _base(expected) in _MAPPINGS


def item_types(expected: Any, num_items: int) -> tuple[Any, ...] | None:
    """The type of each of ``num_items`` items; None when the type allows another number of items only."""
    arguments = get_args(expected) or (Any,)
    fixed = _base(expected) is tuple and get_args(expected) and arguments[-1] is not Ellipsis
    if not fixed:
        return (arguments[0],) * num_items
    return arguments if len(arguments) == num_items else None


def sequence_hook(converter: Converter) -> Hook:
    """The hook for lists, tuples and sets."""

    def structure(value: object, expected: Any) -> Any:
        if not isinstance(value, list | tuple | range):
            raise refusal(f"must be a list, not {shown(value)}")
        types = item_types(expected, len(value))
        if types is None:
            raise refusal(f"must be a list of {len(get_args(expected))} values, not of {len(value)}")
        pairs = zip(value, types, strict=True)
        return _SEQUENCES[_base(expected)](_structured(converter, [(i, *pair) for i, pair in enumerate(pairs)]))

    return structure


def mapping_hook(converter: Converter) -> Hook:
    """The hook for mappings with free keys."""

    def structure(value: object, expected: Any) -> Any:
        if not isinstance(value, Mapping):
            raise refusal(f"must be a mapping, not {shown(value)}")
        key_type, value_type = get_args(expected) or (Any, Any)
        keys = _structured(converter, [(key, key, key_type) for key in value])
        return dict(zip(keys, _structured(converter, [(key, value[key], value_type) for key in value]), strict=True))

    return structure


def _base(expected: Any) -> Any:
    return get_origin(expected) or expected


def _structured(converter: Converter, items: Sequence[tuple[Any, Any, Any]]) -> list[Any]:
    """Structure (place, value, type) one by one; all problems at once."""
    results: list[Any] = []
    problems: list[Problem] = []
    for place, value, expected in items:
        try:
            results.append(converter.structure(value, expected))
        except Exception as error:
            problems.extend(problems_of(error, join_path("", place if isinstance(place, int) else str(place))))
    if problems:
        raise ConfigurationError(problems)
    return results


def is_union(expected: Any) -> bool:
    """Whether a type is a union, optional included."""
    return get_origin(expected) in (Union, UnionType)


def is_component(expected: Any) -> bool:
    """Whether a type is the protocol of a kind of component."""
    return any(expected is kind.protocol for kind in KINDS.values())


def union_hook(converter: Converter) -> Hook:
    """The hook for unions."""

    def structure(value: object, expected: Any) -> Any:
        members = [member for member in get_args(expected) if member is not type(None)]
        if value is None and type(None) in get_args(expected):
            return None
        if len(members) == 1:
            return converter.structure(value, members[0])
        fitting = sorted((m for m in members if _fits(m, value)), key=lambda member: member is not type(value))
        if not fitting:
            raise refusal(f"must be {described(expected)}, not {shown(value)}")
        *others, last = fitting
        for member in others:
            try:
                return converter.structure(value, member)
            except Exception:
                continue  # Two members of one shape: the last one's problems are reported.
        return converter.structure(value, last)

    return structure


def described(expected: Any) -> str:
    """What a message calls a type."""
    if is_union(expected):
        return " or ".join(dict.fromkeys(described(member) for member in get_args(expected)))
    if get_origin(expected) is Literal:
        return " or ".join(repr(literal) for literal in get_args(expected))
    if is_component(expected):
        return "the name of a component"
    if is_sequence(expected):
        return "a list"
    if is_mapping(expected) or attrs.has(expected):
        return "a mapping"
    return SCALARS.get(expected, getattr(expected, "__name__", str(expected)))


def _fits(member: Any, value: object) -> bool:
    if is_component(member):
        return isinstance(value, str | Mapping | member)
    if is_mapping(member) or attrs.has(member):
        return isinstance(value, Mapping) or type(value) is member
    if is_sequence(member):
        return isinstance(value, list | tuple | range)
    if get_origin(member) is Literal:
        return type(value) in {type(literal) for literal in get_args(member)}
    if isinstance(member, type) and issubclass(member, Enum):
        return type(value) in {type(choice.value) for choice in member}
    if member in SCALARS:
        return type(value) is member or (member is float and type(value) is int)
    return True  # A type of its own, with a hook of its own that decides.
