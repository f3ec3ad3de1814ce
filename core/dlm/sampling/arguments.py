"""From keyword arguments, a run file's ``sampling`` section and flags to checked ``SamplingSettings``."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeVar

import attrs
from cattrs import Converter

from dlm.config import RunConfig, RunFileError
from dlm.config.load_run_file import run_converter
from dlm.config.run_file_source import COMMAND_LINE, WrittenRunFile, read_source
from dlm.config.sampling_settings import SamplingSettings
from dlm.errors import UserInputError
from dlm_plugins import KINDS
from dlm_plugins.errors import ConfigurationError
from dlm_plugins.problems import problems_of
from dlm_plugins.registry import Registry
from dlm_plugins.structuring import structure_component, unstructure

_SECTION = "sampling"
_Kind = TypeVar("_Kind")


def settings_of(arguments: Mapping[str, Any]) -> SamplingSettings:
    """The settings that keyword arguments mean; components by name, with options, or as they are.

    Raises:
        UserInputError: an unknown argument, a value out of its range, an unknown component.
    """
    return structured(arguments, SamplingSettings)


def structured(arguments: Mapping[str, Any], kind: type[_Kind]) -> _Kind:
    """An object of an attrs class, whose fields are sampling settings or like them, from values by name.

    Raises:
        UserInputError: an unknown argument, a value out of its range, an unknown component.
    """
    try:
        found: _Kind = _installed(lambda plugins: plugins.converter.structure(dict(arguments), kind))
    except ConfigurationError as error:
        raise UserInputError("\n".join(str(problem) for problem in problems_of(error))) from None
    return found


def written(settings: SamplingSettings) -> dict[str, Any]:
    """The settings as a run file has them."""
    values: Any = unstructure(_plugins().registry, settings)
    return dict(values)


def component_names(kind: str) -> list[str]:
    """The names that can be chosen for a kind of component; none for what is no kind."""
    return [entry.name for entry in _plugins().registry.entries(kind)] if kind in KINDS else []


def component(kind: str, value: Any) -> Any:
    """A component from its name, or from a mapping with ``name`` and options.

    Raises:
        UserInputError: no such component, or no such option.
    """
    try:
        return _installed(
            lambda plugins: structure_component(plugins.registry, kind, value, converter=plugins.converter)
        )
    except ConfigurationError as error:
        raise UserInputError(f"{kind}: {error}") from error


def read_settings(path: str | None, flags: Mapping[str, str]) -> SamplingSettings:
    """The settings of a file, with the command line on top.

    Args:
        path: a run file, of which the section ``sampling`` counts, or a file with the keys of that section.
        flags: YAML by key: ``{"steps": "64", "remasking.temperature": "0.5"}``.

    Raises:
        RunFileError: with one line for each problem.
    """
    source = _section_of(read_source(path)) if path is not None else WrittenRunFile(COMMAND_LINE, {_SECTION: {}}, {})
    for key, text in flags.items():
        source.override(f"{_SECTION}.{key}={text}")
    problems = list(source.faults)
    try:
        settings: SamplingSettings = _installed(
            lambda plugins: plugins.converter.structure(source.value[_SECTION], SamplingSettings)
        )
    except ConfigurationError as error:
        known = {fault.problem.path for fault in problems}
        problems += [source.located(each) for each in problems_of(error, _SECTION) if each.path not in known]
    if problems:
        raise RunFileError([str(problem) for problem in dict.fromkeys(problems)])
    return settings


def keys_in(path: str | None) -> Collection[str]:
    """The settings that a file for :func:`read_settings` says, by name; none without a file."""
    return () if path is None else tuple(_section_of(read_source(path)).value[_SECTION] or ())


@attrs.frozen
class _Plugins:
    registry: Registry
    converter: Converter


_asked: dict[str, Any] = {}
"""Arguments of :meth:`Registry.discover`."""


@contextmanager
def plugins_limited(*, disable: Collection[str] = (), strict: bool = False) -> Iterator[None]:
    """Let everything here, in all threads, know the plugins that a command was told to load.

    Args:
        disable: plugins not to be loaded.
        strict: any plugin that cannot be loaded is an error.
    """
    _asked.update(disable=disable, strict=strict)
    _plugins.cache_clear()
    try:
        yield
    finally:
        _asked.clear()
        _plugins.cache_clear()


@lru_cache(maxsize=1)
def _plugins() -> _Plugins:
    # Looking for plugins takes tens of milliseconds, which would be most of a short call.
    registry = Registry.discover(**_asked)
    return _Plugins(registry, run_converter(registry))


def _installed(structure: Callable[[_Plugins], Any]) -> Any:
    """Ask with the plugins that were found before, and where that fails once more: perhaps one was installed since."""
    try:
        return structure(_plugins())
    except ConfigurationError:
        _plugins.cache_clear()
        return structure(_plugins())


def _section_of(source: WrittenRunFile) -> WrittenRunFile:
    """A run file's section ``sampling``; a file without any section of a run file is that section."""
    sections = {field.name for field in attrs.fields(RunConfig)}
    if sections & set(source.value):
        value = {_SECTION: source.value.get(_SECTION, {})}
        faults = [fault for fault in source.faults if fault.problem.path.startswith(_SECTION)]
        return attrs.evolve(source, value=value, faults=faults)
    origins = {f"{_SECTION}.{path}" if path else _SECTION: origin for path, origin in source.origins.items()}
    faults = [
        attrs.evolve(fault, problem=attrs.evolve(fault.problem, path=f"{_SECTION}.{fault.problem.path}"))
        for fault in source.faults
    ]
    return attrs.evolve(source, value={_SECTION: source.value}, origins=origins, faults=faults)
