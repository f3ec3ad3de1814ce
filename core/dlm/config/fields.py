"""How a key of the run file is declared: default, validator and help text in one place."""

from collections.abc import Callable
from typing import Any

import attrs
from attrs.validators import and_, ge, gt, le, lt, optional

from dlm_plugins.field_metadata import BESIDE, UNSTRUCTURED_DEFAULT

POSITIVE = gt(0)
NOT_NEGATIVE = ge(0)
FRACTION = and_(ge(0), le(1))
PROPER_FRACTION = and_(ge(0), lt(1))
POSITIVE_OR_NULL = optional(gt(0))
NOT_NEGATIVE_OR_NULL = optional(ge(0))


def auto_or_above(bound: int) -> Callable[[object, "attrs.Attribute[str | int]", str | int], None]:
    """Validates a whole number greater than ``bound``, or ``auto``."""

    def check(_: object, attribute: "attrs.Attribute[str | int]", value: str | int) -> None:
        if isinstance(value, int) and value <= bound:
            raise ValueError(f"{attribute.name!r} must be auto or > {bound}: {value}")

    return check


def setting(help: str, default: Any = attrs.NOTHING, validator: Any = None) -> Any:
    """A key with a value of its own; required when there is no default."""
    return attrs.field(default=default, validator=validator, metadata={"help": help})


def component_setting(help: str, default: str) -> Any:
    """A key that selects a component; ``default`` is a name, looked up when the run file is read."""
    return attrs.field(metadata={"help": help, UNSTRUCTURED_DEFAULT: default})


def component_beside_setting(help: str, default: str | None = None) -> Any:
    """A component that is written flat, its name and options beside the other keys of the class."""
    named = {} if default is None else {UNSTRUCTURED_DEFAULT: default}
    return attrs.field(metadata={"help": help, BESIDE: True, **named})


def section(help: str) -> Any:
    """A section that may be left out: its keys then have their defaults."""
    return attrs.field(metadata={"help": help, UNSTRUCTURED_DEFAULT: {}})
