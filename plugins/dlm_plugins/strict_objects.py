"""Structuring of attrs classes: unknown, missing and wrong keys, all reported at once."""

from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any, get_origin

import attrs
from cattrs import Converter

from dlm_plugins.errors import ConfigurationError, Problem
from dlm_plugins.problems import join_path, problems_of, reason_of, shown
from dlm_plugins.strict_types import refusal
from dlm_plugins.suggestions import closest

UNSTRUCTURED_DEFAULT = "unstructured_default"
"""Key of a field's metadata: a value as a run file would write it, structured when the key is absent. It is how a field
of another package's component type can have a default: ``metadata={"unstructured_default": "cosine"}``."""

_FAILURES = (Exception, SystemExit)


def fields_by_key(cls: Any) -> dict[str, "attrs.Attribute[Any]"]:
    """The fields that a run file can set, by key."""
    base = get_origin(cls) or cls
    with suppress(NameError):  # an annotation that only type checkers can see
        attrs.resolve_types(base)
    return {field.alias or field.name: field for field in attrs.fields(base) if field.init}


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
