"""Options of the sampler for ``generate``, ``chat``, ``serve``: the fields of ``SamplingSettings``, and the model's."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import click

from dlm_cli.dotted_options import DOTTED
from dlm_cli.run_file import plugin_options

if TYPE_CHECKING:
    from dlm.sampling.session import Session

_Function = TypeVar("_Function", bound=Callable[..., Any])

DOTTED_OPTIONS = ("remasking", "attention_bias", "cache")
"""Options whose values have options of their own."""


def spellings(name: str) -> tuple[str, ...]:
    """The spellings of an option: with underscores and with dashes."""
    return tuple(dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}")))


def sampling_options(command: _Function) -> _Function:
    """Add ``--model`` and the options of the sampler to a command; :func:`open_session` takes their values."""
    model = click.option(
        "--model", required=True, metavar="FOLDER|HUB_NAME", help="A trained model with its tokenizer."
    )
    return model(settings_options(command))


def settings_options(command: _Function) -> _Function:
    """The same for a command that has the model as an argument ``model``."""
    options = [
        click.option(
            "--config", metavar="FILE", help="YAML with sampling settings: a run file, or its sampling keys alone."
        ),
        *(click.option(*spellings(field.name), metavar="VALUE", help=_help(field)) for field in fields()),
        click.option(*spellings("block_attention"), is_flag=True, help="The same as --attention_bias block."),
        click.option("--dtype", metavar="DTYPE", help="float32, bfloat16, ...  [default: as saved]"),
        click.option(
            "--device", metavar="DEVICE", help="cpu, cuda, mps, ...  [default: the accelerator, if there is one]"
        ),
        click.option("--trust-remote-code", is_flag=True, help="Let code that comes with the model run."),
    ]
    command = plugin_options(command)
    for option in reversed(options):
        command = option(command)
    return command


def fields() -> tuple["attrs.Attribute[Any]", ...]:
    """The fields of the settings, one an option."""
    from dlm.config.sampling_settings import SamplingSettings

    return attrs.fields(SamplingSettings)


def _help(field: "attrs.Attribute[Any]") -> str:
    from dlm_plugins.field_metadata import UNSTRUCTURED_DEFAULT

    default = field.metadata.get(UNSTRUCTURED_DEFAULT, field.default)
    shown = "" if default is None or default == () else f"  [default: {default}]"
    return f"{field.metadata['help']}{shown}"


def open_session(ctx: click.Context, options: dict[str, Any]) -> "Session":
    """Load the model, and settle how it is sampled from.

    Args:
        ctx: of the command, for options with dots.
        options: values of :func:`sampling_options` or :func:`settings_options`.
    """
    flags: dict[str, str] = {field.name: options[field.name] for field in fields() if options[field.name] is not None}
    if options["block_attention"]:
        if "attention_bias" in flags:
            raise click.UsageError("--block_attention is --attention_bias block: give one of them")
        flags["attention_bias"] = "block"
    from dlm.sampling.arguments import plugins_limited, read_settings
    from dlm.sampling.session import Session

    # Until the command ends: requests and the model's own components are read later.
    ctx.with_resource(plugins_limited(disable=options["no_plugin"], strict=options["strict_plugins"]))
    settings = read_settings(options["config"], flags | ctx.meta[DOTTED])
    return Session.open(
        options["model"],
        settings,
        dtype=options["dtype"],
        device=options["device"],
        trust_remote_code=options["trust_remote_code"],
    )
