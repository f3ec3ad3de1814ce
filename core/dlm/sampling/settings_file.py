"""Sampling settings from a file and from the command line."""

import json
from collections.abc import Collection, Mapping
from typing import Any

import attrs

from dlm.config import RunConfig, RunFileError, SamplingConfig
from dlm.config.loading import run_converter
from dlm.config.source import COMMAND_LINE, Source, read_source
from dlm.config.yaml12 import YamlError, parse_yaml
from dlm.errors import UserInputError
from dlm.sampling.settings import component
from dlm_plugins.errors import ConfigurationError
from dlm_plugins.problems import problems_of
from dlm_plugins.registry import Registry

_SECTION = "sampling"
_MODEL_DEPENDENT = ("gen_length", "steps")
"""Settings whose default depends on the model and the prompt, and is left to the caller."""


def read_settings(
    path: str | None,
    given: Mapping[str, Any],
    component_options: Mapping[str, str],
    *,
    disable: Collection[str] = (),
    strict: bool = False,
) -> dict[str, Any]:
    """Arguments for :func:`dlm.sampling.generate` from a file, with the command line on top.

    Args:
        path: a run file, of which the section ``sampling`` counts, or a file with the keys of that section.
        given: values of keys, e.g. ``{"steps": 64}``.
        component_options: options of components as text, e.g. ``{"remasking.temperature": "0.5"}``.
        disable: plugins not to be loaded.
        strict: any plugin that cannot be loaded is an error.

    Returns:
        The settings; of ``gen_length`` and ``steps`` only those that were set.

    Raises:
        RunFileError: with one line for each problem.
    """
    source = _section_of(read_source(path)) if path is not None else Source(COMMAND_LINE, {_SECTION: {}}, {})
    for key, value in given.items():
        # A component may be written as in a run file: {name: random_topk, temperature: 0.5}.
        is_mapping = isinstance(value, str) and value.lstrip().startswith("{")
        source.override(f"{_SECTION}.{key}={value if is_mapping else json.dumps(value)}")
    for key, text in component_options.items():
        source.override(f"{_SECTION}.{key}={text}")
    registry = Registry.discover(disable=disable, strict=strict)
    problems = list(source.faults)
    config = None
    try:
        config = run_converter(registry).structure(source.value[_SECTION], SamplingConfig)
    except ConfigurationError as error:
        known = {fault.problem.path for fault in problems}
        problems += [source.located(each) for each in problems_of(error, _SECTION) if each.path not in known]
    if problems or config is None:
        raise RunFileError([str(problem) for problem in dict.fromkeys(problems)])
    settings = attrs.asdict(config, recurse=False)
    return {
        key: value for key, value in settings.items() if key not in _MODEL_DEPENDENT or key in source.value[_SECTION]
    }


def bias_settings(name: str | None, dotted: Mapping[str, str], *, disable: Collection[str] = ()) -> dict[str, Any]:
    """The argument ``attention_bias`` from its name and from options like ``attention_bias.first``.

    Raises:
        UserInputError: no such component or option, options without a name, or a value that cannot be read.
    """
    options = _options("attention_bias", dotted)
    if name is None and options:
        raise UserInputError(f"--attention_bias.{next(iter(options))} needs --attention_bias NAME")
    if name is None:
        return {}
    registry = Registry.discover(disable=disable)
    return {"attention_bias": component("attention_bias", {"name": name, **options}, registry)}


def cache_settings(name: str, dotted: Mapping[str, str]) -> dict[str, Any]:
    """The argument ``cache`` from its name and from ``cache.refresh_every``."""
    return {"cache": {"name": name, **_options("cache", dotted)}}


def _options(option: str, dotted: Mapping[str, str]) -> dict[str, Any]:
    found = {}
    for name, text in dotted.items():
        head, _, key = name.partition(".")
        if head != option:
            continue
        try:
            found[key] = parse_yaml(text).value
        except YamlError as error:
            raise UserInputError(f"--{name}: {text!r}: {error.message}") from error
    return found


def _section_of(source: Source) -> Source:
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
