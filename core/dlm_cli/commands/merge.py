"""``dlm merge``: adapters and their base, or the parts of a sharded checkpoint, become one model."""

import click

_EPILOG = """\b
Examples:
  dlm merge runs/lora/final --out runs/lora/merged
  dlm merge runs/lora/checkpoints/step-200 --out models/mine --base Qwen/Qwen3-0.6B-Base
  dlm merge runs/large/checkpoints/step-200 --out models/large
"""


@click.command(epilog=_EPILOG)
@click.argument("adapter", metavar="ADAPTER_DIR")
@click.option("--out", required=True, metavar="FOLDER", help="Folder to write; it must be absent or empty.")
@click.option("--base", metavar="FOLDER|HUB_NAME", help="Where the base is now.  [default: where it was in training]")
def merge(adapter: str, out: str, base: str | None) -> None:
    """Merge the adapters of a run with `lora` into their base, or the parts of a sharded checkpoint.

    ADAPTER_DIR is the folder `final` of the run, or one of its checkpoints. What is written is a whole model: it
    loads, samples and trains on by itself. A sharded checkpoint of adapters becomes adapters, to be merged in turn.
    """
    from dlm.model.checkpoint_sources import is_sharded
    from dlm.user_paths import user_path

    if is_sharded(user_path(adapter)):
        if base is not None:
            raise click.UsageError("--base is for adapters; the parts of a sharded checkpoint are merged without it")
        from dlm.training.consolidate import consolidate

        written = consolidate(adapter, out)
        click.echo(f"merged       {written.num_tensors} tensors, {written.num_parameters:,} parameters")
        click.echo(f"written to   {written.destination}")
        return
    from dlm.model.merge import merge as merge_adapters

    report = merge_adapters(adapter, out, base=base)
    click.echo(f"base         {report.base}")
    click.echo(f"model        {report.model_class}, {report.num_parameters:,} parameters, {report.dtype}")
    click.echo(f"merged       {report.num_adapters} adapters")
    click.echo(f"written to   {report.destination}")
