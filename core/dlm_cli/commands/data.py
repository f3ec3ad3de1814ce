"""``dlm data preview``: rows of a run with their noise, before it starts."""

import click

from dlm_cli.run_file import plugin_options, split_arguments


@click.group()
def data() -> None:
    """Look at the data of a run."""


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
    from dlm.config import load_config
    from dlm.training.assembly import build_accelerator
    from dlm.training.preview import preview as make_preview
    from dlm_cli.preview_text import show

    files, overrides = split_arguments(arguments)
    if len(files) != 1:
        raise click.UsageError(f"name one run file, not {len(files)}")
    loaded = load_config(files[0], overrides, disable=no_plugin, strict=strict_plugins)
    for note in loaded.notes:
        click.echo(f"{files[0]}: note: {note}", err=True)
    show(make_preview(loaded, build_accelerator(loaded.config), rows))
