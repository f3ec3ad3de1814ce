"""Source texts of small plugins."""

from collections.abc import Callable

import pytest

_MODULE = '''"""A plugin with one noise schedule."""

import attrs
from torch import Tensor, ones_like

from dlm_plugins import NoiseSchedule, hookimpl


@attrs.frozen(kw_only=True)
class {class_name}:
    """Straight line. Second sentence."""

    slope: float = attrs.field(default=1.0, validator=attrs.validators.gt(0), metadata={{"help": "Steepness."}})

    def mask_rate(self, t: Tensor) -> Tensor:
        return self.slope * t

    def mask_rate_derivative(self, t: Tensor) -> Tensor:
        return self.slope * ones_like(t)


@hookimpl
def dlm_noise_schedules() -> dict[str, type[NoiseSchedule]]:
    return {{{name!r}: {class_name}}}
'''


@pytest.fixture(scope="session")
def schedule_plugin() -> Callable[..., str]:
    """Source of a module that provides a noise schedule under the given name."""

    def source(name: str = "straight", class_name: str = "Straight") -> str:
        return _MODULE.format(name=name, class_name=class_name)

    return source
