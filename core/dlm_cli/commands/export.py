"""``dlm export``: a trained model in the layout of an engine (SGLang, lmdeploy) or of plain transformers."""

import click

_EPILOG = """\b
Examples:
  dlm export --src runs/sft/final --dst served/mine --format sdar
  dlm export --src runs/sft/final --dst published/mine --format hf
  dlm export --src runs/sft/final --dst published/mine --format hf --push me/mine
"""


@click.command(epilog=_EPILOG)
@click.option("--src", required=True, metavar="FOLDER", help="Folder of a trained model.")
@click.option("--dst", required=True, metavar="FOLDER", help="Folder to write; it must be absent or empty.")
@click.option(
    "--format",
    "layout",
    required=True,
    type=click.Choice(["sdar", "hf"]),
    help="sdar: block diffusion for SGLang and lmdeploy; hf: for transformers without dlm, with code and model card.",
)
@click.option("--push", metavar="NAME", help="Upload the folder to the Hugging Face hub as NAME (hf only).")
@click.option("--private", is_flag=True, help="With --push: make a repository that only its owner sees.")
def export(src: str, dst: str, layout: str, push: str | None, private: bool) -> None:
    """Write a trained model so that other programs load it.

    What would not mean the same there is refused, with what to change. Only --push uses the network.
    """
    if push is not None and layout != "hf":
        raise click.UsageError("--push uploads what --format hf writes")
    if private and push is None:
        raise click.UsageError("--private says how --push makes a repository: give --push NAME")
    if layout == "sdar":
        _export_sdar(src, dst)
    else:
        _export_hugging_face(src, dst, push, private=private)


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


def _export_hugging_face(src: str, dst: str, name: str | None, *, private: bool) -> None:
    from pathlib import Path

    from dlm.interop.hf_export import export_hugging_face
    from dlm.interop.hf_push import check_push, push

    if name is not None:
        check_push(name)
    report = export_hugging_face(src, dst, name=name)
    click.echo(f"written to   {report.destination}")
    click.echo(f"model        {report.model_class}, loaded with trust_remote_code=True")
    for missing in report.to_fill_in:
        click.echo(f"fill in      {missing}, in README.md")
    if name is not None:
        click.echo(f"pushed to    {push(Path(report.destination), name, private=private)}")
