"""Names of a package that are imported when one is first asked for: what only handles text need not wait for torch."""

import sys
from collections.abc import Callable
from importlib import import_module


def lazy_names(package: str, source: str) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package, for the names in ``__all__`` of one of its modules.

    Args:
        package: its ``__name__``.
        source: the module.
    """

    def get(name: str) -> object:
        found: object = getattr(import_module(source), name)
        setattr(sys.modules[package], name, found)
        return found

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *import_module(source).__all__})

    return get, names
