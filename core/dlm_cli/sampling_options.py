"""What ``generate`` and ``chat`` have in common: the options of the sampler, and how they become its arguments."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dlm_cli.dotted_options import DOTTED
from dlm_cli.run_file import plugin_options

if TYPE_CHECKING:
    from dlm.sampling.session import Session

_Function = TypeVar("_Function", bound=Callable[..., Any])

DOTTED_OPTIONS = ("remasking", "attention_bias", "cache")
"""Options whose components have options."""
_SECTION = ("gen_length", "steps", "block_length", "remasking", "temperature", "cfg_scale")
"""Options that are keys of the section ``sampling`` of a run file."""


def _both(name: str) -> tuple[str, ...]:
    """The spellings of an option: with underscores and with dashes."""
    return tuple(dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}")))


_OPTIONS = (
    click.option("--model", required=True, metavar="FOLDER|HUB_NAME", help="A trained model with its tokenizer."),
    click.option(
        "--config", metavar="FILE", help="YAML with sampling settings: a run file, or its sampling keys alone."
    ),
    click.option(*_both("gen_length"), type=int, metavar="N", help="Tokens to generate.  [default: 128, or what fits]"),
    click.option(*_both("steps"), type=int, metavar="N", help="Denoising steps.  [default: one for each token]"),
    click.option(
        *_both("block_length"),
        type=int,
        metavar="N",
        help="Decode blocks of N tokens one after another.  [default: the model's own, or all at once]",
    ),
    click.option("--remasking", metavar="NAME", help="Which predictions to keep at a step.  [default: low_confidence]"),
    click.option("--temperature", type=float, metavar="T", help="0 takes the most probable token.  [default: 0]"),
    click.option(*_both("cfg_scale"), type=float, metavar="S", help="Classifier-free guidance.  [default: 0, none]"),
    click.option(*_both("attention_bias"), metavar="NAME", help="Who sees whom.  [default: as the model was trained]"),
    click.option(*_both("block_attention"), is_flag=True, help="The same as --attention_bias block."),
    click.option(
        "--cache",
        metavar="NAME",
        default="auto",
        show_default=True,
        help="auto, off, prompt, side_by_side: exact. prefix, dual: approximate.",
    ),
    click.option(
        "--eos",
        type=click.Choice(["stop", "free", "suppress", "late"]),
        default="stop",
        show_default=True,
        help="At an end of text: stop decoding, go on, never write it, or commit it as late as possible.",
    ),
    click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Seed of the randomness."),
    click.option("--dtype", metavar="DTYPE", help="float32, bfloat16, ...  [default: as saved]"),
    click.option("--device", metavar="DEVICE", help="cpu, cuda, mps, ...  [default: the accelerator, if there is one]"),
    click.option("--trust-remote-code", is_flag=True, help="Let code that comes with the model run."),
)


def sampling_options(command: _Function) -> _Function:
    """Add the options of the sampler to a command; :func:`open_session` takes their values."""
    command = plugin_options(command)
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def open_session(ctx: click.Context, options: dict[str, Any]) -> "Session":
    """Load the model, and settle how it is sampled from.

    Args:
        ctx: of the command, for options with dots.
        options: values of :func:`sampling_options`.
    """
    from dlm.sampling.session import Session
    from dlm.sampling.settings_file import bias_settings, cache_settings, read_settings

    if options["block_attention"] and options["attention_bias"]:
        raise click.UsageError("--block_attention is --attention_bias block: give one of them")
    dotted: dict[str, str] = ctx.meta[DOTTED]
    settings = read_settings(
        options["config"],
        {name: options[name] for name in _SECTION if options[name] is not None},
        {name: text for name, text in dotted.items() if name.startswith("remasking.")},
        disable=options["no_plugin"],
        strict=options["strict_plugins"],
    )
    bias = "block" if options["block_attention"] else options["attention_bias"]
    settings |= bias_settings(bias, dotted, disable=options["no_plugin"])
    settings |= cache_settings(options["cache"], dotted)
    return Session.open(
        options["model"],
        settings,
        eos=options["eos"],
        seed=options["seed"],
        dtype=options["dtype"],
        device=options["device"],
        trust_remote_code=options["trust_remote_code"],
    )
