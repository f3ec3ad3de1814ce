"""The options of a component as a reader wants them: type, default, check, help."""

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any

import attrs
import yaml

from dlm_plugins.registry import Registry


@attrs.frozen(kw_only=True)
class Option:
    """One option of a component."""

    name: str
    type: str
    default: object
    """In terms of YAML: sequences are lists."""
    check: str
    """What the validator asks for; empty without one."""
    help: str


def options_of(cls: type[attrs.AttrsInstance], registry: Registry) -> tuple[Option, ...]:
    """The options of a registered component class, in the order in which they are written."""
    attrs.resolve_types(cls)
    defaults = cls()
    return tuple(
        Option(
            name=field.name,
            type=_type_name(field.type),
            default=_in_yaml(getattr(defaults, field.name), registry),
            check=_check(field.validator),
            help=str(field.metadata.get("help", "")),
        )
        for field in attrs.fields(cls)
        if field.init
    )


def as_yaml(value: object) -> str:
    """A value as one writes it in a run file, on one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n").removesuffix("\n...")


def _type_name(annotation: object) -> str:
    text = (
        annotation.__name__ if isinstance(annotation, type) and not hasattr(annotation, "__args__") else str(annotation)
    )
    literal = re.fullmatch(r"typing\.Literal\[(.*)\]", text)
    return literal[1].replace(", ", " | ") if literal else re.sub(r"\b(?:[a-z_]\w*\.)+", "", text)


def _in_yaml(value: object, registry: Registry) -> object:
    if isinstance(value, Mapping):
        return {key: _in_yaml(each, registry) for key, each in value.items()}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple | list | set | frozenset):
        return [_in_yaml(each, registry) for each in value]
    entry = next((entry for entry in registry.entries() if entry.cls is type(value)), None)
    if entry is not None:
        options = {each.name: _in_yaml(getattr(value, each.name), registry) for each in attrs.fields(entry.cls)}
        return entry.selecting_name if value == entry.cls() else {"name": entry.selecting_name, **options}
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def _check(validator: Any) -> str:
    """Put a validator into words: those of ``attrs.validators`` by what they hold, others by their docstring."""
    if validator is None or hasattr(validator, "type"):  # instance_of repeats what the type says
        return ""
    for attribute, describe in _BY_ATTRIBUTE.items():
        if hasattr(validator, attribute):
            return describe(validator)
    described = inspect.getdoc(validator) if inspect.isroutine(validator) else None
    if described:
        return described.split("\n")[0]
    return getattr(validator, "__name__", str(validator)).strip("_").replace("_", " ")


def _joined(validators: Iterable[Any], conjunction: str) -> str:
    return conjunction.join(filter(None, map(_check, validators)))


def _after(text: str, prefix: str = "", suffix: str = "") -> str:
    return f"{prefix}{text}{suffix}" if text else ""


def _choices(options: Iterable[object]) -> str:
    ordered = sorted(options, key=str) if isinstance(options, set | frozenset) else options
    return f"one of {', '.join(map(str, ordered))}"


_BY_ATTRIBUTE: dict[str, Callable[[Any], str]] = {
    "_validators": lambda each: _joined(each._validators, ", "),  # and_, or a list
    "validators": lambda each: _joined(each.validators, " or "),  # or_
    "compare_op": lambda each: f"{each.compare_op} {each.bound}",  # ge, gt, le, lt
    "member_validator": lambda each: ", ".join(  # deep_iterable
        filter(None, (_check(each.iterable_validator), _after(_check(each.member_validator), "each ")))
    ),
    "min_length": lambda each: f"length >= {each.min_length}",
    "max_length": lambda each: f"length <= {each.max_length}",
    # in_, which turns a set into a tuple without order
    "options": lambda each: _choices(getattr(each, "_original_options", each.options)),
    "pattern": lambda each: f"matches {each.pattern.pattern}",
    "exc_types": lambda each: _after(_check(each.validator), "not "),  # not_
    "validator": lambda each: _after(_check(each.validator), suffix=" or null"),  # optional
}
"""How to describe a validator of attrs, by an attribute that only its class has; the first that fits counts."""
