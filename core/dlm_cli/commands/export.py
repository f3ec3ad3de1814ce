"""``dlm export``: a trained model in the layout of an engine (SGLang, lmdeploy) or of plain transformers."""

import click

_EPILOG = """\b
Examples:
  dlm export --src runs/sft/final --dst served/mine --format sdar
"""


@click.command(epilog=_EPILOG)
@click.option("--src", required=True, metavar="FOLDER", help="Folder of a trained model.")
@click.option("--dst", required=True, metavar="FOLDER", help="Folder to write; it must be absent or empty.")
@click.option(
    "--format",
    "layout",
    required=True,
    type=click.Choice(["sdar"]),
    help="sdar: block diffusion for SGLang and lmdeploy.",
)
def export(src: str, dst: str, layout: str) -> None:
    """Write a trained model so that other programs load it.

    What would not mean the same there is refused, with what to change.
    """
    _export_sdar(src, dst)


def _export_sdar(src: str, dst: str) -> None:
    from dlm.interop.sdar import export_sdar

    report = export_sdar(src, dst)
    click.echo(f"written to   {report.destination}")
    click.echo(f"block        {report.block_length} tokens, counted from the start of the text")
    click.echo(f"mask         id {report.mask_id}, which both engines assume")
    for note in report.notes:
        click.echo(f"note         {note}")
    for engine, command in report.commands:
        click.echo(f"\n{engine}:\n  {command}")
