"""The run file (YAML configuration): its keys, how it is read and checked, and how it is written.

Its names are those of :mod:`dlm.config.config_names`, imported when one is first asked for: that takes torch, which the
modules that list options (sampling settings, options of an evaluation) do without.
"""

from typing import TYPE_CHECKING

from dlm_plugins.lazy_names import lazy_names

if TYPE_CHECKING:
    from dlm.config import config_names
    from dlm.config.config_names import *  # noqa: F403

    __all__: list[str] = []
    __all__ += config_names.__all__

__getattr__, __dir__ = lazy_names(__name__, "dlm.config.config_names")
