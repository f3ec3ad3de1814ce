"""Arguments and options that commands with run files share (overrides, ``--no-plugin``, ``--strict-plugins``)."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

_Function = TypeVar("_Function", bound=Callable[..., Any])
_OVERRIDE = re.compile(r"[A-Za-z_][\w.\[\]-]*=", re.ASCII)


def plugin_options(command: _Function) -> _Function:
    """``--no-plugin`` and ``--strict-plugins``, as ``no_plugin`` and ``strict_plugins``."""
    for option in (
        click.option("--strict-plugins", is_flag=True, help="Fail if any installed plugin cannot be loaded."),
        click.option("--no-plugin", metavar="NAME", multiple=True, help="Do not load this plugin; may be repeated."),
    ):
        command = option(command)
    return command


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Files and overrides: ``key.key=value`` is an override unless a file has that very name."""
    overrides = [each for each in arguments if _OVERRIDE.match(each) and not Path(each).exists()]
    return [each for each in arguments if each not in overrides], overrides
