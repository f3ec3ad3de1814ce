"""Loading one plugin: import, registration, hooks, validation, each failure held back from everything else."""

import contextlib
import inspect
import re
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import pluggy

from dlm_plugins import hookspecs
from dlm_plugins.discovery import (
    COMPONENT_NAME,
    Candidate,
    Entry,
    Phase,
    PluginRecord,
    incompatibility,
    missing_requirements,
)
from dlm_plugins.kinds import KINDS, Kind
from dlm_plugins.suggestions import did_you_mean
from dlm_plugins.validation import component_problems

SLOW_SECONDS = 5.0
"""An import or a hook that takes longer than this gets a warning: every command pays for it."""


_NAMES = "a name has lower-case letters, digits and underscores only, and is not null, true or false"


class _RefusedError(Exception):
    """The plugin breaks the contract; the message says how, so that no traceback is needed."""


def load_plugin(candidate: Candidate) -> PluginRecord:
    """Load one plugin; whatever it does wrong ends up in the record."""
    record = PluginRecord(
        name=candidate.name, distribution=candidate.distribution, version=candidate.version, status="ok"
    )
    reason = incompatibility(candidate)
    if reason:
        return attrs.evolve(record, status="incompatible", phase="metadata", error=reason)
    attempt = _Attempt(candidate)
    started = time.perf_counter()
    try:
        # What a plugin prints while it loads must not end up in the output of a command, which may be JSON.
        with contextlib.redirect_stdout(sys.stderr):
            entries = attempt.load()
    except (Exception, SystemExit) as error:
        return attrs.evolve(
            record,
            status="broken",
            phase=attempt.phase,
            error=attempt.describe(error),
            traceback="" if isinstance(error, _RefusedError) else traceback.format_exc(),
            seconds=time.perf_counter() - started,
        )
    return attrs.evolve(record, seconds=time.perf_counter() - started, notes=tuple(attempt.notes), entries=entries)


@attrs.define
class _Attempt:
    """How far the loading of one plugin has come."""

    candidate: Candidate
    phase: Phase = "import"
    notes: list[str] = attrs.field(factory=list)

    def load(self) -> tuple[Entry, ...]:
        """All components of the plugin, or an exception: a plugin is taken whole or not at all."""
        with self._timed("import"):
            plugin = self.candidate.entry_point.load()
        self.phase = "register"
        # A manager of its own for each plugin: a failure leaves nothing behind that would have to be undone.
        manager = pluggy.PluginManager(hookspecs.PROJECT)
        manager.add_hookspecs(hookspecs.hook_specifications())
        _check_hooks(manager, plugin)
        manager.register(plugin, self.candidate.name)
        entries: list[Entry] = []
        for kind in KINDS.values():
            for implementation in getattr(manager.hook, kind.hook).get_hookimpls():
                self.phase = "hook"
                with self._timed(f"hook {kind.hook}"):
                    provided = implementation.function()
                entries += self._entries_of(kind, provided)
        return tuple(entries)

    def describe(self, error: BaseException) -> str:
        """One line for a failure."""
        if isinstance(error, _RefusedError):
            return str(error)
        message = " ".join(str(error).split())
        text = f"{self.phase}: {type(error).__name__}" + (f": {message}" if message else "")
        missing = missing_requirements(self.candidate) if isinstance(error, ImportError) else ()
        return f"{text} (not installed: {', '.join(missing)})" if missing else text

    def _entries_of(self, kind: Kind, provided: object) -> Iterator[Entry]:
        if not isinstance(provided, Mapping):
            raise _RefusedError(
                f"hook {kind.hook!r} returned {_brief(provided)}; it must return a mapping {{name: class}}"
            )
        self.phase = "component"
        problems: list[str] = []
        for name, cls in provided.items():
            if not isinstance(name, str) or not COMPONENT_NAME.fullmatch(name):
                problems.append(f"{kind.name} {name!r}: {_NAMES}")
            problems += [f"{kind.name} {name!r}: {problem}" for problem in component_problems(kind, cls)]
        if problems:
            raise _RefusedError("; ".join(" ".join(problem.split()) for problem in problems))
        for name, cls in provided.items():
            yield Entry(
                kind=kind.name,
                name=name,
                plugin=self.candidate.name,
                distribution=self.candidate.distribution,
                version=self.candidate.version,
                cls=cls,
                summary=_first_sentence(cls),
            )

    @contextlib.contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        seconds = time.perf_counter() - started
        if seconds > SLOW_SECONDS:
            self.notes.append(f"{what} took {seconds:.1f} s; every command pays for it")


def _check_hooks(manager: pluggy.PluginManager, plugin: Any) -> None:
    """Refuse unknown hooks, hooks with arguments and forgotten markers, before pluggy sees the plugin.

    Pluggy's own messages are long, and a forgotten marker has none.
    """
    hooks = [kind.hook for kind in KINDS.values()]
    marked = [name for name in dir(plugin) if manager.parse_hookimpl_opts(plugin, name) is not None]
    for name in marked:
        if name not in hooks:
            hint = did_you_mean(name, hooks) or f"; the hooks are {', '.join(hooks)}"
            raise _RefusedError(f"unknown hook {name!r}{hint}")
        required = [
            parameter.name
            for parameter in inspect.signature(getattr(plugin, name)).parameters.values()
            if parameter.default is parameter.empty
        ]
        if required:
            raise _RefusedError(f"hook {name!r} takes ({', '.join(required)}); hooks are called without arguments")
    for name in hooks:
        if name not in marked and inspect.isroutine(getattr(plugin, name, None)):
            raise _RefusedError(f"{name!r} is not marked as a hook; is @hookimpl missing?")
    if not marked:
        raise _RefusedError("no hook implementation found; is @hookimpl missing?")


def _first_sentence(cls: type) -> str:
    paragraph = " ".join((inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0]).split())
    sentence = re.match(r".+?[.!?](?=\s+[A-Z]|$)", paragraph)
    return sentence[0] if sentence else paragraph


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
