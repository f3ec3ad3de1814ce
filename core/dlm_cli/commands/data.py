"""``dlm data``: rows of a run with their noise (``preview``), and its token ids (``tokenize``), before it starts."""

from typing import TYPE_CHECKING

import click

from dlm_cli.run_file import plugin_options, split_arguments

if TYPE_CHECKING:
    from dlm.config import LoadedConfig


@click.group()
def data() -> None:
    """Look at the data of a run, or tokenize it."""


@data.command(
    epilog="""\b
Examples:
  dlm data preview configs/sft.yaml
  dlm data preview configs/sft.yaml --rows 8 dataset.eos_padding=all
  dlm data preview configs/pretrain.yaml training.noise.mask_contiguous_region_prob=1
"""
)
@click.argument("arguments", metavar="CONFIG [KEY=VALUE]...", nargs=-1, required=True)
@click.option("--rows", type=click.IntRange(min=1), default=3, show_default=True, metavar="N", help="Rows to show.")
@plugin_options
def preview(arguments: tuple[str, ...], rows: int, no_plugin: tuple[str, ...], strict_plugins: bool) -> None:
    """Print the first rows of step 0 as the model will see them.

    Prompt, answer, padding and masked positions in colours (in a pipe: between markers), with the noise that the
    run will draw; lengths and token counts; what was dropped, and why. No model is loaded, and nothing is written
    but the cache of token ids.
    """
    from dlm.training.assembly import build_accelerator
    from dlm.training.preview import preview as make_preview
    from dlm_cli.preview_text import show

    loaded = _load(arguments, no_plugin, strict_plugins=strict_plugins)
    show(make_preview(loaded, build_accelerator(loaded.config), rows))


@data.command(
    epilog="""\b
Examples:
  dlm data tokenize configs/pretrain.yaml
  dlm data tokenize configs/pretrain.yaml --out tokens
  DLM_CACHE=tokens dlm run configs/pretrain.yaml
"""
)
@click.argument("arguments", metavar="CONFIG [KEY=VALUE]...", nargs=-1, required=True)
@click.option("--out", metavar="FOLDER", help="Where the ids go; runs find them there with DLM_CACHE=FOLDER.")
@plugin_options
def tokenize(arguments: tuple[str, ...], out: str | None, no_plugin: tuple[str, ...], strict_plugins: bool) -> None:
    """Tokenize the data of a run, so that no start of it has to.

    The ids go into the cache where a run would keep them itself, by default ~/.cache/dlm (DLM_CACHE names another
    folder), or into a folder of their own, in shards with a manifest. What is there already is not made again, and what
    was interrupted is gone on with.
    """
    from dlm.training.assembly import build_accelerator
    from dlm.training.tokenizing import tokenize as tokenize_data
    from dlm.user_paths import user_path

    loaded = _load(arguments, no_plugin, strict_plugins=strict_plugins)
    folder = None if out is None else user_path(out).absolute()
    data = tokenize_data(loaded, build_accelerator(loaded.config), folder)
    for line in (f"data: {data.summary}", *data.notes, *data.origin):
        click.echo(line)


def _load(arguments: tuple[str, ...], no_plugin: tuple[str, ...], *, strict_plugins: bool) -> "LoadedConfig":
    from dlm.config import load_config

    files, overrides = split_arguments(arguments)
    if len(files) != 1:
        raise click.UsageError(f"name one run file, not {len(files)}")
    loaded = load_config(files[0], overrides, disable=no_plugin, strict=strict_plugins)
    for note in loaded.notes:
        click.echo(f"{files[0]}: note: {note}", err=True)
    return loaded
