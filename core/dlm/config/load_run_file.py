"""Load a run file with overrides: to a checked configuration, or to every problem at once, with line numbers."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import attrs
from cattrs import Converter

from dlm.config.components_in_effect import incompatibilities
from dlm.config.rules import RULES, idle_notes
from dlm.config.run_config import PluginsConfig, RunConfig, places_of
from dlm.config.run_file_source import COMMAND_LINE, Located, RunFileError, WrittenRunFile, parent_of, read_source
from dlm_plugins import KINDS
from dlm_plugins.errors import ConfigurationError, PluginSettingError, Problem
from dlm_plugins.plugin_settings import STRICT_FLAG
from dlm_plugins.registry import Registry
from dlm_plugins.structuring import make_converter, problems_of

_COMPONENT_KEYS = tuple(kind.key for kind in KINDS.values())


@attrs.frozen(kw_only=True)
class LoadedConfig:
    """A configuration that passed every check."""

    config: RunConfig
    registry: Registry
    notes: tuple[str, ...]
    """What the user should be told, one line each."""


def load_config(
    path: str | Path, overrides: Sequence[str] = (), *, disable: Collection[str] = (), strict: bool = False
) -> LoadedConfig:
    """Read and check a run file.

    Args:
        path: the file.
        overrides: ``key.key=value`` each, values in YAML.
        disable: plugins not to be loaded, besides those that the file disables.
        strict: any plugin that cannot be loaded is an error.

    Raises:
        RunFileError: with one line for each problem: ``file:line: key: what is wrong``.
    """
    return _load(read_source(path), overrides, disable, strict)


def load_mapping(
    value: Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    name: str = "<config>",
    disable: Collection[str] = (),
    strict: bool = False,
) -> LoadedConfig:
    """The same for a configuration that is a mapping already; ``name`` stands for it in messages."""
    return _load(WrittenRunFile(name=name, value=deepcopy(dict(value)), origins={}), overrides, disable, strict)


def run_converter(registry: Registry) -> Converter:
    """The converter that structures a whole run file."""
    return make_converter(registry, places_of(registry))


def _load(source: WrittenRunFile, overrides: Sequence[str], disable: Collection[str], strict: bool) -> LoadedConfig:
    for override in overrides:
        source.override(override)
    registry = _discover(source, disable, strict)
    converter = run_converter(registry)
    _fill_dependent_defaults(source.value)
    config, found = _structure(converter, registry, source.value)
    # A key that could not be read is missing now: the reader knows why already.
    known = {fault.problem.path for fault in source.faults}
    problems = [problem for problem in found if problem.path not in known]
    if problems or source.faults or config is None:
        raise RunFileError(_report(source, problems))
    notes = tuple(idle_notes(config, _defaults(converter, config)))
    return LoadedConfig(config=config, registry=registry, notes=registry.warnings() + notes)


def _discover(source: WrittenRunFile, disable: Collection[str], strict: bool) -> Registry:
    """Build the registry as the file and the caller ask; where that fails, one to look for other problems with."""
    converter, settings = make_converter(), PluginsConfig()
    with suppress(ConfigurationError):  # reported with the rest of the file
        settings = converter.structure(source.value.get("plugins", {}), PluginsConfig)
    try:
        return Registry.discover(disable={*settings.disable, *disable}, strict=strict, require=settings.require)
    except PluginSettingError as error:
        source.faults.append(_located(source, settings, error))
    try:
        return Registry.discover()
    except PluginSettingError:
        # The environment itself asks for what cannot be.
        raise RunFileError(_report(source, ())) from None


def _located(source: WrittenRunFile, settings: PluginsConfig, error: PluginSettingError) -> Located:
    """Where a request about plugins was made: the file, an override, a flag, or the environment."""
    message, places = str(error), {"plugins.require": settings.require, "plugins.disable": settings.disable}
    for key, requests in places.items():
        if error.subject in requests:
            return source.located(Problem(key, message))
    if error.subject is None:
        return Located("<environment>", Problem("", message))
    return Located(COMMAND_LINE, Problem(STRICT_FLAG if error.subject == STRICT_FLAG else "--no-plugin", message))


def _fill_dependent_defaults(value: dict[str, Any]) -> None:
    """Defaults that depend on other keys."""
    training = value.get("training")
    if isinstance(training, dict) and training.get("mode") in ("sft", "preference", "rl"):
        dataset = value.setdefault("dataset", {})
        if isinstance(dataset, dict):
            dataset.setdefault("pack", False)


def _structure(
    converter: Converter, registry: Registry, value: dict[str, Any]
) -> tuple[RunConfig | None, list[Problem]]:
    try:
        config = converter.structure(value, RunConfig)
    except ConfigurationError as error:
        problems = problems_of(error)
        return None, problems + list(_rules_beside(converter, registry, value, problems))
    return config, list(_broken_rules(config, registry, ()))


def _rules_beside(
    converter: Converter, registry: Registry, value: dict[str, Any], problems: Sequence[Problem]
) -> Iterator[Problem]:
    """Rules that are broken besides: looked for in a copy without the wrong keys, where there can be one."""
    copy = deepcopy(value)
    if not all(_remove(copy, problem.path) for problem in problems):
        return
    try:
        config = converter.structure(copy, RunConfig)
    except ConfigurationError:
        return
    yield from _broken_rules(config, registry, [problem.path for problem in problems])


def _remove(value: Any, path: str) -> bool:
    *parents, key = path.partition("[")[0].split(".")
    for parent in parents:
        value = value.get(parent) if isinstance(value, dict) else None
    if not isinstance(value, dict) or key not in value:
        return False
    del value[key]
    return True


def _broken_rules(config: RunConfig, registry: Registry, wrong: Sequence[str]) -> Iterator[Problem]:
    """Ask the rules, except those that look at a key that is wrong or has a wrong neighbour (perhaps misspelt)."""
    around = {parent_of(path) for path in wrong}

    def is_doubtful(key: str) -> bool:
        return parent_of(key) in around or any(
            key == path or key.startswith(f"{path}.") or path.startswith(f"{key}[") for path in wrong
        )

    for rule, keys in RULES:
        if not any(map(is_doubtful, keys)):
            yield from rule(config)
    if not any(map(is_doubtful, (*_COMPONENT_KEYS, "training.mode"))):
        yield from incompatibilities(config, registry)


def _defaults(converter: Converter, config: RunConfig) -> RunConfig:
    """The run file that says nothing but what it must."""
    required = {
        "training": {"mode": config.training.mode, "output_dir": config.training.output_dir},
        "dataset": {"name": config.dataset.name},
    }
    return converter.structure(required, RunConfig)


def _report(source: WrittenRunFile, problems: Sequence[Problem]) -> list[str]:
    """One line a problem, in the order of the file, overrides last."""

    def position(located: Located) -> tuple[bool, int]:
        line = located.origin.rpartition(":")[2]
        return located.origin == COMMAND_LINE, int(line) if line.isdecimal() else 0

    located = dict.fromkeys([*source.faults, *map(source.located, problems)])
    return [str(each) for each in sorted(located, key=position)]
