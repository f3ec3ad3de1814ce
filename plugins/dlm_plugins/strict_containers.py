"""Structuring of lists and mappings: every item is checked, and every wrong item is reported."""

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, get_args, get_origin

from cattrs import Converter

from dlm_plugins.errors import ConfigurationError, Problem
from dlm_plugins.problems import join_path, problems_of, shown
from dlm_plugins.strict_values import refusal

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
