"""All properties of a kind, run on a component class or on instances."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

from dlm_plugins.testing import (
    attention_bias,
    component,
    loss,
    masking,
    noise_schedule,
    noise_type,
    optimizer,
    remasking,
)
from dlm_plugins.testing.instances import variants
from dlm_plugins.testing.properties import is_tried_at_every_value
from dlm_plugins.testing.scratch import scratch_storage

Check: TypeAlias = Callable[[Any], None]

PROPERTIES: Mapping[str, tuple[Check, ...]] = MappingProxyType(
    {
        kind: (*component.PROPERTIES, *module.PROPERTIES)
        for kind, module in {
            "loss": loss,
            "noise_schedule": noise_schedule,
            "masking": masking,
            "noise_type": noise_type,
            "attention_bias": attention_bias,
            "remasking": remasking,
            "optimizer": optimizer,
        }.items()
    }
)
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
