"""The registry: every component that can be chosen by name, and what became of every installed plugin."""

from collections.abc import Collection, Sequence
from typing import Self

import attrs

from dlm_plugins.discovery import (
    BUILTIN,
    COMPONENT_NAME,
    FRAMEWORK,
    Candidate,
    Entry,
    PluginRecord,
    Status,
    find_candidates,
)
from dlm_plugins.errors import ComponentLookupError, PluginSettingError
from dlm_plugins.kinds import KINDS
from dlm_plugins.plugin_loading import load_plugin
from dlm_plugins.plugin_settings import ALL, STRICT_FLAG, check_requirements, disabled_plugins, is_strict
from dlm_plugins.suggestions import closest


@attrs.frozen
class Registry:
    """Components by kind and name, with their provenance."""

    plugins: tuple[PluginRecord, ...]

    @classmethod
    def discover(cls, disable: Collection[str] = (), strict: bool = False, require: Sequence[str] = ()) -> Self:
        """Load every installed plugin, each on its own: a broken one is recorded and left out whole.

        The environment has a say too: ``DLM_DISABLE_PLUGINS`` (names with commas, or ``all`` for everything but the
        built-ins) and ``DLM_STRICT_PLUGINS=1``.

        Args:
            disable: names of plugins that are not even imported.
            strict: any plugin that cannot be loaded is an error.
            require: distributions that must be installed and working, as for pip: ``dlm-acme>=0.3``.

        Raises:
            PluginSettingError: an unknown name to disable, a requirement that is not met, or, when strict, a plugin
                that could not be loaded.
        """
        candidates = find_candidates()
        disabled = disabled_plugins(disable, candidates)
        records: list[PluginRecord] = []
        for candidate in candidates:
            if candidate.name in disabled:
                records.append(_left_out(candidate, "disabled", f"switched off by {disabled[candidate.name]}"))
            else:
                refusal = _refused_name(candidate, records)
                records.append(_left_out(candidate, "broken", refusal) if refusal else load_plugin(candidate))
        registry = cls(_with_shadowing(records))
        failures = [record for record in records if record.failed]
        if is_strict(strict) and failures:
            lines = "; ".join(f"{record} is {record.status}: {record.error}" for record in failures)
            message = f"plugins are strict, and not all could be loaded: {lines}"
            raise PluginSettingError(message, subject=STRICT_FLAG if strict else None)
        check_requirements(require, registry.plugins)
        return registry

    def entries(self, kind: str | None = None) -> tuple[Entry, ...]:
        """All components, or those of one kind: by kind in the order of the table, then by name, built-ins first."""
        order = list(KINDS)
        found = (entry for record in self.plugins for entry in record.entries if kind in (None, entry.kind))
        return tuple(
            sorted(found, key=lambda each: (order.index(each.kind), each.plugin != BUILTIN, each.name, each.plugin))
        )

    def resolve(self, kind: str, name: str) -> Entry:
        """The component that ``name`` selects: bare (``elbo``) or qualified (``acme:elbo``).

        A bare name that the built-ins have is theirs, whatever else is installed.

        Raises:
            ComponentLookupError: nobody provides the name, or more than one third party does.
        """
        entries = self.entries(kind)
        if ":" in name:
            found = [entry for entry in entries if entry.qualified_name == name]
        else:
            found = [entry for entry in entries if entry.name == name and not entry.shadowed]
        if len(found) > 1:
            choices = " or ".join(repr(entry.qualified_name) for entry in found)
            raise ComponentLookupError(f"{kind} {name!r} is provided by more than one plugin; say which: {choices}")
        if not found:
            raise ComponentLookupError(self._unknown(kind, name))
        return found[0]

    def entry_of(self, component: object) -> Entry:
        """Where a component, or its class, comes from.

        Raises:
            ComponentLookupError: the class is not registered.
        """
        cls = component if isinstance(component, type) else type(component)
        for entry in self.entries():
            if entry.cls is cls:
                return entry
        raise ComponentLookupError(f"{cls.__module__}.{cls.__qualname__} is not provided by any loaded plugin")

    def warnings(self) -> tuple[str, ...]:
        """One line for each plugin that could not be loaded, or that is slow to load."""
        lines = []
        for record in self.plugins:
            if record.failed:
                lines.append(f"plugin {record} is {record.status} and left out: {record.error}")
            lines += [f"plugin {record}: {note}" for note in record.notes]
        return tuple(lines)

    def _unknown(self, kind: str, name: str) -> str:
        plugin, _, bare = name.rpartition(":")
        missing = [record for record in self.plugins if record.status != "ok" and plugin in ("", record.name)]
        if plugin and not any(record.name == plugin for record in self.plugins):
            return f"unknown {kind} {name!r}: no plugin {plugin!r} is installed; install the package that provides it"
        names = list(dict.fromkeys(entry.selecting_name for entry in self.entries(kind)))
        close = closest(name, names) or closest(bare, names)
        parts = [f"unknown {kind} {name!r}"]
        if close:
            parts.append(f"did you mean {close!r}?")
        elsewhere = [entry.kind for entry in self.entries() if entry.name == bare]
        if elsewhere and not close:
            parts.append(f"there is a {elsewhere[0]} of that name")
        parts.append(f"available: {', '.join(sorted(names)) or 'none'}")
        if not close and not elsewhere:
            parts.append("if a plugin provides it, install that")
        if missing:
            parts.append(f"not loaded: {', '.join(map(_state_of, missing))}")
        return "; ".join(parts).replace("?; ", "? ")


def _state_of(record: PluginRecord) -> str:
    """Why a plugin gives nothing, and where to read more."""
    return f"{record} is {record.status} ({'see `dlm plugins check`' if record.failed else record.error})"


def _refused_name(candidate: Candidate, earlier: Sequence[PluginRecord]) -> str | None:
    if not COMPONENT_NAME.fullmatch(candidate.name) or candidate.name == ALL:
        return f"plugin name {candidate.name!r} is not allowed: lower-case letters, digits and underscores, not {ALL!r}"
    if candidate.name == BUILTIN and not candidate.is_builtin:
        return f"plugin name {BUILTIN!r} is reserved for {FRAMEWORK}"
    for record in earlier:
        if record.name == candidate.name:
            return f"plugin name {candidate.name!r} is taken by {record.distribution} {record.version} already"
    return None


def _left_out(candidate: Candidate, status: Status, reason: str) -> PluginRecord:
    return PluginRecord(
        name=candidate.name,
        distribution=candidate.distribution,
        version=candidate.version,
        status=status,
        phase="metadata" if status == "broken" else None,
        error=reason,
    )


def _with_shadowing(records: Sequence[PluginRecord]) -> tuple[PluginRecord, ...]:
    """Mark what the built-ins' bare names hide."""
    builtin = {(entry.kind, entry.name) for record in records if record.name == BUILTIN for entry in record.entries}
    return tuple(
        attrs.evolve(
            record,
            entries=tuple(
                attrs.evolve(entry, shadowed=record.name != BUILTIN and (entry.kind, entry.name) in builtin)
                for entry in record.entries
            ),
        )
        for record in records
    )
