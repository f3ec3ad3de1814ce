"""Structuring of unions: the member is chosen by the shape of the value, never by trying to convert it."""

from collections.abc import Mapping
from enum import Enum
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import attrs
from cattrs import Converter

from dlm_plugins.kinds import KINDS
from dlm_plugins.problems import shown
from dlm_plugins.strict_containers import Hook, is_mapping, is_sequence
from dlm_plugins.strict_values import SCALARS, refusal


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
