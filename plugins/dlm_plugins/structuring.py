"""From run files to components and back, through the registry and without any coercion."""

from collections.abc import Callable, Collection, Mapping
from enum import Enum
from typing import Any, Literal, get_args, get_origin

import attrs
from cattrs import Converter

from dlm_plugins.errors import ComponentLookupError, ConfigurationError, Problem
from dlm_plugins.field_metadata import BESIDE, UNSTRUCTURED_DEFAULT
from dlm_plugins.kinds import KINDS
from dlm_plugins.problems import problems_of, shown
from dlm_plugins.registry import Registry
from dlm_plugins.strict_types import (
    SCALARS,
    component_beside,
    fields_by_key,
    is_component,
    is_mapping,
    is_sequence,
    is_union,
    mapping_hook,
    refusal,
    sequence_hook,
    structure_choice,
    structure_literal,
    structure_object,
    structure_scalar,
    union_hook,
)

__all__ = ["make_converter", "problems_of", "structure_component", "unstructure", "unstructure_component"]


def make_converter(registry: Registry | None = None, places: Mapping[str, str] | None = None) -> Converter:
    """A converter that takes values as they are: ``"7"`` is not 7, 3.7 is no integer, true is not 1.

    Integers are accepted for floats, lists for tuples. Every problem of a value is reported at once, as a
    ``ConfigurationError`` with paths relative to the value.

    Args:
        registry: structures fields whose type is the protocol of a kind; without it there can be none.
        places: dotted path by key, to suggest where a key belongs that stands in the wrong section.
    """
    converter = Converter(forbid_extra_keys=True, detailed_validation=True)
    for scalar in SCALARS:
        converter.register_structure_hook(scalar, structure_scalar)
    converter.register_structure_hook(Enum, structure_choice)
    _register(converter, lambda expected: get_origin(expected) is Literal, structure_literal)
    _register(converter, is_sequence, sequence_hook(converter))
    _register(converter, is_mapping, mapping_hook(converter))
    _register(converter, is_union, union_hook(converter))

    def structure_attrs(value: object, cls: Any) -> Any:
        if type(value) is cls:  # Python hands over objects that are ready
            return value
        beside = component_beside(cls)
        if registry is not None and beside is not None:
            return _structure_flat(converter, registry, value, cls, beside)
        return structure_object(converter, value, cls, places=places or {})

    _register(converter, attrs.has, structure_attrs)
    if registry is not None:
        for kind in KINDS.values():
            _register_component(converter, registry, kind.name, kind.protocol)
    return converter


def structure_component(
    registry: Registry,
    kind: str,
    value: object,
    *,
    also_known: Collection[str] = (),
    converter: Converter | None = None,
) -> Any:
    """Build a component from ``name`` or ``{name: ..., **options}``.

    Args:
        registry: where names are looked up.
        kind: a key of ``KINDS``.
        value: what the run file holds.
        also_known: keys of the same mapping that the core reads, to be suggested for misspelt ones.
        converter: one made for this registry; a new one by default.

    Raises:
        ConfigurationError: with every problem, paths relative to the component.
    """
    name, options, name_path = _name_and_options(registry, kind, value)
    try:
        entry = registry.resolve(kind, name)
    except ComponentLookupError as error:
        raise ConfigurationError([Problem(name_path, str(error))]) from error
    try:
        return structure_object(converter or make_converter(registry), options, entry.cls, also_known=also_known)
    except ConfigurationError as error:
        raise ConfigurationError(
            [problem if problem.path else Problem("", f"{name}: {problem.message}") for problem in error.problems]
        ) from error


def _structure_flat(
    converter: Converter, registry: Registry, value: object, cls: Any, field: "attrs.Attribute[Any]"
) -> Any:
    """Build a class one of whose components is written flat, from a name or from one mapping."""
    own = [key for key in fields_by_key(cls) if key != field.name]
    parts: dict[str, object] = {}
    if isinstance(value, Mapping):
        parts = {key: item for key, item in value.items() if key in own}
        default = field.metadata.get(UNSTRUCTURED_DEFAULT)
        name = {} if default is None else {"name": default}
        value = {**name, **{key: item for key, item in value.items() if key not in parts}}
    problems: list[Problem] = []
    free = [key for key in own if key not in parts]
    try:
        kind = next(kind.name for kind in KINDS.values() if kind.protocol is field.type)
        parts[field.name] = structure_component(registry, kind, value, also_known=free, converter=converter)
    except ConfigurationError as error:
        problems += error.problems
    try:
        built = structure_object(converter, parts, cls)
    except ConfigurationError as error:
        problems += [problem for problem in error.problems if problem.path != field.name]
    if problems:
        raise ConfigurationError(problems)
    return built


def unstructure_component(registry: Registry, kind: str, component: object) -> dict[str, object]:
    """The component as a run file writes it: its qualified ``name`` and all its options, as plain values."""
    entry = registry.entry_of(component)
    if entry.kind != kind:
        raise ValueError(f"{entry.qualified_name} provides {entry.kind}, not {kind}")
    return {"name": entry.qualified_name, **_options(registry, component)}


def unstructure(registry: Registry, value: object) -> object:
    """Any configured value as plain mappings, lists and scalars; components carry their qualified names."""
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {key: unstructure(registry, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [unstructure(registry, item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((unstructure(registry, item) for item in value), key=repr)
    if attrs.has(type(value)):
        return _options(registry, value)
    return Converter().unstructure(value)


def _options(registry: Registry, value: object) -> dict[str, object]:
    options: dict[str, object] = {}
    for key, field in fields_by_key(type(value)).items():
        plain = _content(registry, getattr(value, field.name), field.type)
        if field.metadata.get(BESIDE) and isinstance(plain, dict):
            options = {**plain, **options}
        else:
            options[key] = plain
    return options


def _content(registry: Registry, value: object, expected: Any) -> object:
    """One option: components carry their names, in a list too."""
    members = get_args(expected) if is_union(expected) else (expected,)
    kind = next((kind.name for kind in KINDS.values() if kind.protocol in members), None)
    if kind is not None and value is not None:
        return unstructure_component(registry, kind, value)
    item = next((get_args(member)[0] for member in members if is_sequence(member) and get_args(member)), None)
    if is_component(item) and isinstance(value, list | tuple):
        return [_content(registry, each, item) for each in value]
    return unstructure(registry, value)


def _name_and_options(registry: Registry, kind: str, value: object) -> tuple[str, Mapping[Any, object], str]:
    if isinstance(value, str):
        return value, {}, ""
    names = ", ".join(sorted(entry.name for entry in registry.entries(kind)))
    if not isinstance(value, Mapping):
        raise refusal(f"must be a name ({names}) or a mapping with `name` and options, not {shown(value)}")
    if "name" not in value:
        raise refusal(f"the mapping needs a `name`: {names}")
    name = value["name"]
    if not isinstance(name, str):
        raise ConfigurationError([Problem("name", f"must be one of {names}, not {shown(name)}")])
    return name, {key: option for key, option in value.items() if key != "name"}, "name"


def _register(converter: Converter, applies: Callable[[Any], bool], hook: Callable[[Any, Any], Any]) -> None:
    converter.register_structure_hook_func(applies, hook)


def _register_component(converter: Converter, registry: Registry, kind: str, protocol: type) -> None:
    def structure(value: object, _: Any) -> Any:
        if isinstance(value, protocol):  # Python hands over components that are ready
            return value
        return structure_component(registry, kind, value, converter=converter)

    _register(converter, lambda expected: expected is protocol, structure)
