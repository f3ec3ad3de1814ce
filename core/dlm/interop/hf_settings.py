"""Sampling settings in a published modelling file: components by name from those in the file, without a registry."""

from collections.abc import Mapping
from typing import Any, get_args

import attrs

from dlm.config.sampling_settings import CacheName, CacheOptions, EndPolicy, SamplingSettings
from dlm.errors import UserInputError
from dlm_plugins.field_metadata import UNSTRUCTURED_DEFAULT

COMPONENTS: dict[str, dict[str, Any]] = {}
"""Classes by kind and name; filled at the end of the file, like"""
PROTOCOLS: dict[str, str] = {}
"""the protocol of each kind, by which options that are components themselves are known."""


def settings_of(arguments: Mapping[str, Any]) -> SamplingSettings:
    """Stands in for :func:`dlm.sampling.arguments.settings_of`."""
    values = dict(arguments)
    for field in attrs.fields(SamplingSettings):
        values.setdefault(field.name, field.metadata.get(UNSTRUCTURED_DEFAULT, field.default))
        if field.name in COMPONENTS and isinstance(values[field.name], str | Mapping):
            values[field.name] = component(field.name, values[field.name])
    try:
        if isinstance(values["cache"], Mapping):
            values["cache"] = CacheOptions(**values["cache"])
        settings = SamplingSettings(**values)
    except (TypeError, ValueError) as error:
        raise UserInputError(str(error)) from error
    cache = settings.cache.name if isinstance(settings.cache, CacheOptions) else settings.cache
    for name, value, allowed in (("cache", cache, get_args(CacheName)), ("eos", settings.eos, get_args(EndPolicy))):
        if value not in allowed:
            raise UserInputError(f"{name}: there is no {value!r}; available: {', '.join(allowed)}")
    return settings


def component(kind: str, value: Any) -> Any:
    """Stands in for :func:`dlm.sampling.arguments.component`."""
    options = {"name": value} if isinstance(value, str) else dict(value)
    name = str(options.pop("name", "")).removeprefix("builtin:")
    if name not in COMPONENTS[kind]:
        raise UserInputError(f"{kind}: there is no {name!r}; available: {', '.join(COMPONENTS[kind])}")
    cls = COMPONENTS[kind][name]
    types = {field.name: str(field.type) for field in attrs.fields(cls)}
    try:
        return cls(**{key: _nested(kind, value, types.get(key, "")) for key, value in options.items()})
    except (TypeError, ValueError) as error:
        raise UserInputError(f"{kind} {name}: {error}") from error


def _nested(kind: str, value: Any, annotation: str) -> Any:
    """The value of an option; components of the same kind in it by their names."""
    if PROTOCOLS[kind] not in annotation:
        return value
    if isinstance(value, str | Mapping):
        return component(kind, value)
    return [_nested(kind, each, annotation) for each in value] if isinstance(value, list | tuple) else value
