"""Structuring of single values without any coercion: numbers, texts, switches, choices."""

import math
from collections.abc import Iterable
from enum import Enum
from typing import Any, get_args

from dlm_plugins.errors import ConfigurationError, Problem
from dlm_plugins.problems import shown
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
