"""The settings of the sampler are defined once: class, keyword arguments, run file and command line agree."""

from collections.abc import Mapping
from typing import Any, get_args, get_type_hints

import attrs
import click

from dlm.config.sampling_settings import SamplingArguments, SamplingSettings
from dlm.sampling.arguments import settings_of
from dlm_cli.commands.chat import chat
from dlm_cli.commands.generate import generate
from dlm_plugins import KINDS
from dlm_plugins.strict_types import fields_by_key, is_union

PROTOCOLS = {kind.protocol for kind in KINDS.values()}


def as_argument(expected: Any) -> set[Any]:
    """What a caller may hand over for a field: a component also by its name or with its options."""
    members = set(get_args(expected)) if is_union(expected) else {expected}
    if members & PROTOCOLS:
        members |= {str, Mapping[str, Any]}
    if any(attrs.has(member) for member in members):
        members.add(Mapping[str, Any])
    return members


def test_keyword_arguments_have_the_names_and_types_of_the_fields() -> None:
    # Their modules are not imported where the settings are: these are names for type checkers.
    components: dict[str, Any] = {protocol.__name__: protocol for protocol in PROTOCOLS}
    arguments = get_type_hints(SamplingArguments, localns=components)
    fields = {key: field.type for key, field in fields_by_key(SamplingSettings).items()}
    assert list(arguments) == list(fields)
    for name, expected in fields.items():
        found = arguments[name]
        assert (set(get_args(found)) if is_union(found) else {found}) == as_argument(expected), name


def test_every_field_is_an_option_of_the_commands() -> None:
    for command in (generate, chat):
        options = {option.name: option for option in command.params if isinstance(option, click.Option)}
        for field in attrs.fields(SamplingSettings):
            assert f"--{field.name.replace('_', '-')}" in options[field.name].opts
            assert options[field.name].help.startswith(field.metadata["help"])


def test_objects_that_are_ready_are_taken_as_they_are() -> None:
    settings = settings_of({"remasking": "random", "cache": {"name": "dual", "refresh_every": 3}})
    again = settings_of(attrs.asdict(settings, recurse=False))
    assert again == settings
    assert again.remasking is settings.remasking
    assert again.cache is settings.cache
