"""``dlm validate``: check run files without running them."""

import sys

import click

from dlm_cli.run_file import plugin_options, split_arguments


@click.command(
    epilog="""\b
Examples:
  dlm validate configs/pretrain.yaml
  dlm validate configs/*.yaml
  dlm validate configs/pretrain.yaml optim.lr=1e-3 training.noise.schedule=cosine
"""
)
@click.argument("arguments", metavar="CONFIG... [KEY=VALUE]...", nargs=-1, required=True)
@plugin_options
def validate(arguments: tuple[str, ...], no_plugin: tuple[str, ...], strict_plugins: bool) -> None:
    """Check run files without running them.

    Prints `ok` for each file that passes, and one line for each problem of the others: file, line, key, what is wrong
    and what was probably meant. Overrides apply to every file. Exit code 0 when all files pass, else 2.
    """
    from dlm.config import RunFileError, load_config

    files, overrides = split_arguments(arguments)
    if not files:
        raise click.UsageError("name at least one run file")
    failed = False
    for file in files:
        try:
            loaded = load_config(file, overrides, disable=no_plugin, strict=strict_plugins)
        except RunFileError as error:
            failed = True
            for line in error.lines:
                click.echo(line, err=True)
        else:
            for note in loaded.notes:
                click.echo(f"{file}: note: {note}", err=True)
            click.echo(f"{file}: ok")
    if failed:
        sys.exit(2)
