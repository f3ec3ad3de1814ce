"""Refuting a component by one named property."""

from collections.abc import Callable

import pytest

from dlm_plugins.testing import PROPERTIES, variants
from dlm_plugins.testing.component_check import first_failure
from dlm_plugins.testing.property_tools import property_name

Refute = Callable[[str, type, str], str]


@pytest.fixture(scope="session")
def refute() -> Refute:
    """``refute(kind, cls, property)``: the property must fail, under its own name and the component's; its message."""

    def run(kind: str, cls: type, name: str) -> str:
        (check,) = [check for check in PROPERTIES[kind] if property_name(check) == name]
        message = first_failure(check, variants(cls))
        assert message is not None, f"{cls.__name__} passes {name}"
        assert message.startswith(f"{name}: {cls.__name__}("), message
        return message

    return run
