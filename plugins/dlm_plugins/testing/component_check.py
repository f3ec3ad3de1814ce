"""All properties of a kind, run on a component class or on instances."""

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from dlm_plugins.kinds import KINDS
from dlm_plugins.testing import component_properties
from dlm_plugins.testing.hypothesis_storage import scratch_storage
from dlm_plugins.testing.instances import variants
from dlm_plugins.testing.property_tools import is_tried_at_every_value

Check: TypeAlias = Callable[[Any], None]


class _PropertiesByKind(Mapping[str, tuple[Check, ...]]):
    """What every component keeps, and what ``<kind>_properties.py`` in this package adds, where there is one."""

    def __getitem__(self, kind: str) -> tuple[Check, ...]:
        if kind not in KINDS:
            raise KeyError(kind)
        module = f"{__package__}.{kind}_properties"
        own = importlib.import_module(module).PROPERTIES if importlib.util.find_spec(module) else ()
        return (*component_properties.PROPERTIES, *own)

    def __iter__(self) -> Iterator[str]:
        return iter(KINDS)

    def __len__(self) -> int:
        return len(KINDS)


PROPERTIES: Mapping[str, tuple[Check, ...]] = _PropertiesByKind()
"""The properties of every kind, by its name in ``dlm_plugins.KINDS``."""


NUM_TELLING = 4
"""Instances on which properties that cost more are tried: the defaults, and the most telling other values."""


def instances_for(check: Check, varied: list[Any]) -> list[Any]:
    """Those of ``variants`` on which a property is tried."""
    return varied if is_tried_at_every_value(check) else varied[:NUM_TELLING]


def check_component(kind: str, cls: type) -> list[str]:
    """Try every property of ``kind`` on ``cls`` with its default options and with varied ones.

    Returns:
        One message for each property that does not hold, naming the property, the options and the smallest failing
        case; empty when all hold.
    """
    try:
        instances = variants(cls)
    except Exception as error:
        return [f"default_options: {cls.__qualname__}() raised {type(error).__name__}: {error}"]
    with scratch_storage():
        messages = [first_failure(check, instances) for check in PROPERTIES[kind]]
    return [message for message in messages if message is not None]


def first_failure(check: Check, varied: list[Any]) -> str | None:
    """What one property says of the first of ``variants`` for which it does not hold; None when it holds for all."""
    for instance in instances_for(check, varied):
        try:
            check(instance)
        except AssertionError as error:
            return str(error)
    return None
