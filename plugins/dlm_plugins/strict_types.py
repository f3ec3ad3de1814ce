"""Structuring without coercion: numbers, texts, choices; lists, mappings, attrs classes, with every wrong item; unions.

The member of a union is chosen by the shape of the value, never by trying to convert it.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from contextlib import suppress
from enum import Enum
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import attrs
from cattrs import Converter

from dlm_plugins.errors import ConfigurationError, Problem
from dlm_plugins.field_metadata import BESIDE, UNSTRUCTURED_DEFAULT
from dlm_plugins.kinds import KINDS
from dlm_plugins.problems import join_path, problems_of, reason_of, shown
from dlm_plugins.suggestions import closest, did_you_mean

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
        hint = ", which is text" if isinstance(value, str) and expected in (int, float, bool) else ""
        if expected is str and isinstance(value, bool | int | float):
            hint = "; in YAML, text that looks like a number, true or false is quoted"
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


_FAILURES = (Exception, SystemExit)


def fields_by_key(cls: Any) -> dict[str, "attrs.Attribute[Any]"]:
    """The fields that a run file can set, by key."""
    base = get_origin(cls) or cls
    try:
        attrs.resolve_types(base)
    except NameError:  # an annotation that only type checkers can see: a protocol of ours is known all the same
        with suppress(NameError):
            attrs.resolve_types(base, localns={kind.protocol.__name__: kind.protocol for kind in KINDS.values()})
    return {field.alias or field.name: field for field in attrs.fields(base) if field.init}


def component_beside(cls: Any) -> "attrs.Attribute[Any] | None":
    """The field of a class whose component is written flat, if there is one."""
    return next((field for field in fields_by_key(cls).values() if field.metadata.get(BESIDE)), None)


def structure_object(
    converter: Converter, value: object, cls: Any, *, also_known: Collection[str] = (), places: Mapping[str, str] = {}
) -> Any:
    """Build ``cls`` from a mapping.

    Args:
        converter: structures the fields.
        value: what the run file holds.
        cls: an attrs class.
        also_known: keys of the same mapping that somebody else reads; they are suggested, not accepted.
        places: where keys are at home, for keys that stand in the wrong section.

    Raises:
        ConfigurationError: with every unknown, missing and refused key, paths relative to the object.
    """
    if not isinstance(value, Mapping):
        raise refusal(f"must be a mapping, not {shown(value)}")
    options = fields_by_key(cls)
    problems = _key_problems(value, options, also_known, places)
    arguments: dict[str, Any] = {}
    for key, field in options.items():
        if key in value or UNSTRUCTURED_DEFAULT in field.metadata:
            given = value[key] if key in value else field.metadata[UNSTRUCTURED_DEFAULT]
            try:
                arguments[key] = converter.structure(given, field.type if field.type is not None else Any)
            except _FAILURES as error:
                problems.extend(problems_of(error, join_path("", key)))
    if problems:
        raise ConfigurationError(problems + _validator_problems(cls, options, arguments))
    try:
        return cls(**arguments)
    except _FAILURES as error:
        # attrs stops at the first validator that objects; the reader wants to know them all.
        raise ConfigurationError(_validator_problems(cls, options, arguments) or problems_of(error)) from error


def is_required(field: "attrs.Attribute[Any]") -> bool:
    """Whether a run file has to set the field."""
    return field.default is attrs.NOTHING and UNSTRUCTURED_DEFAULT not in field.metadata


def _key_problems(
    value: Mapping[Any, object], options: Mapping[str, Any], also_known: Collection[str], places: Mapping[str, str]
) -> list[Problem]:
    missing = [key for key, field in options.items() if key not in value and is_required(field)]
    free = [key for key in (*options, *also_known) if key not in value]
    problems: list[Problem] = []
    for key in (str(key) for key in value if key not in options):
        meant = closest(key, missing) or closest(key, free) or closest(key, options)
        if meant in missing:
            missing.remove(meant)
            message = f"unknown key; did you mean {meant!r}, which is required?"
        elif key in places:
            message = f"unknown key here; did you mean {places[key]!r}?"
        elif meant is not None:
            message = f"unknown key; did you mean {meant!r}?"
        else:
            known = ", ".join((*options, *also_known))
            message = f"unknown key; known here: {known}" if known else "unknown key; there are no options here"
        problems.append(Problem(join_path("", key), message))
    return problems + [Problem(key, "required, but missing") for key in missing]


def _validator_problems(cls: Any, options: Mapping[str, Any], arguments: Mapping[str, Any]) -> list[Problem]:
    """Ask each validator on its own, on an object that holds what is known."""
    instance = object.__new__(get_origin(cls) or cls)
    for key, field in options.items():
        if key in arguments:
            object.__setattr__(instance, field.name, arguments[key])
        elif not hasattr(field.default, "takes_self"):  # a factory makes its value in the constructor
            object.__setattr__(instance, field.name, field.default)
    problems: list[Problem] = []
    for key, field in options.items():
        if field.validator is None or key not in arguments:
            continue
        try:
            field.validator(instance, field, arguments[key])
        except AttributeError:
            continue  # It looks at another field, which is missing or wrong itself.
        except _FAILURES as error:
            problems.append(Problem(join_path("", key), reason_of(error).removeprefix(f"{field.name!r} ")))
    return problems
