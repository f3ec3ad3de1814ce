"""What discovery found: components and the plugins that provide them."""

from typing import Any, Literal, TypeAlias

import attrs

BUILTIN = "builtin"
"""Name of the plugin that ships with the framework. Its components keep their bare names."""

Status: TypeAlias = Literal["ok", "broken", "incompatible", "disabled"]
Phase: TypeAlias = Literal["metadata", "import", "register", "hook", "component"]


@attrs.frozen(kw_only=True)
class Entry:
    """One component that can be chosen by name."""

    kind: str
    name: str
    plugin: str
    distribution: str
    version: str
    cls: type[Any]
    summary: str
    """First sentence of the class's docstring."""
    shadowed: bool = False
    """True where the bare name selects the built-in: this one needs its qualified name."""

    @property
    def qualified_name(self) -> str:
        """``plugin:name``, which selects this component whatever else is installed."""
        return f"{self.plugin}:{self.name}"

    @property
    def selecting_name(self) -> str:
        """The shortest name that selects this component, as far as built-ins are concerned."""
        return self.qualified_name if self.shadowed else self.name


@attrs.frozen(kw_only=True)
class PluginRecord:
    """One plugin that is installed, whether it could be loaded or not."""

    name: str
    distribution: str
    version: str
    status: Status
    phase: Phase | None = None
    """Where it went wrong; None for plugins that are ok or disabled."""
    error: str = ""
    """One line: what went wrong, or by what the plugin was disabled."""
    traceback: str = ""
    seconds: float = 0.0
    """Time for import, registration, hooks and validation."""
    notes: tuple[str, ...] = ()
    """Sentences worth reading about a plugin that works, e.g. that its import is slow."""
    entries: tuple[Entry, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether the plugin was meant to be loaded and could not be."""
        return self.status in ("broken", "incompatible")

    def __str__(self) -> str:
        return f"{self.name} ({self.distribution} {self.version})"
