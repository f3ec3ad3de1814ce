"""The contract between ``dlm`` and its plugins: hooks, protocols and the objects that components are handed.

Its names are those of :mod:`dlm_plugins.api`, imported when one is first asked for: that takes torch, which the modules
that only handle text (streams, suggestions) do without.
"""

from typing import TYPE_CHECKING

from dlm_plugins.lazy_names import lazy_names

if TYPE_CHECKING:
    from dlm_plugins import api
    from dlm_plugins.api import *  # noqa: F403

    __all__: list[str] = []
    __all__ += api.__all__

__getattr__, __dir__ = lazy_names(__name__, "dlm_plugins.api")
