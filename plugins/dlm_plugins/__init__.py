"""The contract between ``dlm`` and its plugins: hooks, protocols and the objects that components are handed.

Its names are those of :mod:`dlm_plugins.api`, imported when one is first asked for: that takes torch, which the modules
that only handle text (streams, suggestions) do without.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dlm_plugins import api
    from dlm_plugins.api import *  # noqa: F403

    __all__: list[str] = []
    __all__ += api.__all__


def __getattr__(name: str) -> object:
    found: object = getattr(import_module("dlm_plugins.api"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *import_module("dlm_plugins.api").__all__})
