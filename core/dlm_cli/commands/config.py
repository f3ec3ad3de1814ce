"""``dlm config``: show a run file as it will be understood, with defaults; JSON schema of all run files."""

import json

import click

from dlm_cli.run_file import plugin_options, split_arguments


@click.group()
def config() -> None:
    """Show a resolved run file, or the JSON Schema of all run files."""


@config.command(
    short_help="Print a run file with every default filled in.",
    epilog="""\b
Examples:
  dlm config show configs/pretrain.yaml
  dlm config show configs/pretrain.yaml training.loss_impl=elbo > my-run.yaml
""",
)
@click.argument("arguments", metavar="CONFIG [KEY=VALUE]...", nargs=-1, required=True)
@plugin_options
def show(arguments: tuple[str, ...], no_plugin: tuple[str, ...], strict_plugins: bool) -> None:
    """Print a run file with every default filled in and every component's full name.

    What is printed is a valid run file again and means the same.
    """
    from dlm.config import dump_config, load_config

    files, overrides = split_arguments(arguments)
    if len(files) != 1:
        raise click.UsageError(f"name one run file, not {len(files)}")
    loaded = load_config(files[0], overrides, disable=no_plugin, strict=strict_plugins)
    for note in loaded.notes:
        click.echo(f"{files[0]}: note: {note}", err=True)
    click.echo(dump_config(loaded.config, loaded.registry), nl=False)


@config.command(
    short_help="Print the JSON Schema of run files, for editors.",
    epilog="""\b
Examples:
  dlm config schema > dlm.schema.json
  # then, as the first line of a run file, for editors:
  # yaml-language-server: $schema=dlm.schema.json
""",
)
@plugin_options
def schema(no_plugin: tuple[str, ...], strict_plugins: bool) -> None:
    """Print the JSON Schema of run files, installed plugins included, for completion and checks in editors."""
    from dlm.config import json_schema
    from dlm_plugins.registry import Registry

    registry = Registry.discover(disable=no_plugin, strict=strict_plugins)
    click.echo(json.dumps(json_schema(registry), indent=2, ensure_ascii=False))
