"""The run file (YAML configuration): its keys, how it is read and checked, and how it is written.

Its names are those of :mod:`dlm.config.api`, imported when one is first asked for: that takes torch, which the modules
that list options (sampling settings, options of an evaluation) do without.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dlm.config import api
    from dlm.config.api import *  # noqa: F403

    __all__: list[str] = []
    __all__ += api.__all__


def __getattr__(name: str) -> object:
    found: object = getattr(import_module("dlm.config.api"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *import_module("dlm.config.api").__all__})
