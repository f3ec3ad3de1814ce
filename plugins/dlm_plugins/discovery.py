"""Discovery: which plugins are installed, from metadata alone, and what is known of each and of its components."""

import re
from collections.abc import Iterator
from importlib import metadata
from typing import Any, Literal, TypeAlias

import attrs
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

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


ENTRY_POINT_GROUP = "dlm.plugins"
FRAMEWORK = "dlm"
"""Name of the distribution whose version plugins depend on, and which alone may provide the built-ins."""

COMPONENT_NAME = re.compile(r"(?!(?:null|true|false)\Z)[a-z][a-z0-9_]*")
"""Names of plugins and of components: what YAML reads as text."""


@attrs.frozen
class Candidate:
    """A plugin as its distribution announces it."""

    entry_point: metadata.EntryPoint

    @property
    def name(self) -> str:
        """Name of the plugin: the entry point's."""
        return self.entry_point.name

    @property
    def distribution(self) -> str:
        """Name of the distribution, as published."""
        return self.entry_point.dist.name if self.entry_point.dist else "unknown"

    @property
    def version(self) -> str:
        """Version of the distribution."""
        return str(self.entry_point.dist.version) if self.entry_point.dist else "unknown"

    @property
    def is_builtin(self) -> bool:
        """Whether this is the plugin that ships with the framework."""
        return self.name == BUILTIN and canonicalize_name(self.distribution) == FRAMEWORK

    def requirements(self) -> Iterator[Requirement]:
        """What the distribution says it requires here; requirements of its extras do not count."""
        declared = self.entry_point.dist.requires if self.entry_point.dist else None
        for text in declared or ():
            try:
                requirement = Requirement(text)
            except InvalidRequirement:
                continue  # pip refuses to install such a distribution; here it only cannot be compared
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                yield requirement


def find_candidates() -> tuple[Candidate, ...]:
    """Every installed plugin: the built-ins first, the others by distribution and name."""
    found = (Candidate(entry_point) for entry_point in metadata.entry_points(group=ENTRY_POINT_GROUP))
    return tuple(sorted(found, key=lambda each: (not each.is_builtin, canonicalize_name(each.distribution), each.name)))


def incompatibility(candidate: Candidate) -> str | None:
    """Why the plugin's own ``Requires-Dist`` excludes the running framework; None when it does not."""
    running = metadata.version(FRAMEWORK)
    for requirement in candidate.requirements():
        is_framework = canonicalize_name(requirement.name) == FRAMEWORK
        if is_framework and not requirement.specifier.contains(running, prereleases=True):
            return f"needs {FRAMEWORK}{requirement.specifier}, this is {FRAMEWORK} {running}"
    return None


def missing_requirements(candidate: Candidate) -> tuple[str, ...]:
    """Distributions that the plugin requires and that are not installed in a fitting version."""
    return tuple(str(requirement) for requirement in candidate.requirements() if not is_installed(requirement))


def is_installed(requirement: Requirement) -> bool:
    """Whether a distribution that meets ``requirement`` is installed."""
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return False
    return requirement.specifier.contains(version, prereleases=True)
