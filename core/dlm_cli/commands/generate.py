"""``dlm generate``: text from a trained folder: prompts, infill, number of samples, batch size, trace, output."""

import sys
from typing import TYPE_CHECKING, Any

import click

from dlm_cli.destinations import file_to_write
from dlm_cli.dotted_options import DottedCommand
from dlm_cli.sampling_options import DOTTED_OPTIONS, open_session, sampling_options
from dlm_plugins.streams import has_no_reader

if TYPE_CHECKING:
    from dlm.sampling.session import Result

EXAMPLES = """\b
Examples:
  dlm generate --model runs/pretrain/final --prompt "What is diffusion LM?"
  dlm generate --model runs/pretrain/final --infill "The <|mask:3|> of Python is <|mask|>."
  dlm generate --model runs/sft/final --prompt-file prompts.txt --out results.jsonl
  cat prompts.txt | dlm generate --model runs/sft/final --out - | jq -r .text
  dlm generate --model runs/sft/final --prompt Hi --steps 64 --gen_length 128 --block_length 32 \\
      --remasking random_topk --remasking.temperature 0.5 --temperature 0.7 --seed 1
"""


@click.command(cls=DottedCommand, dotted=DOTTED_OPTIONS, epilog=EXAMPLES)
@click.option("--prompt", "prompts", multiple=True, metavar="TEXT", help="Text to continue. Repeatable.")
@click.option("--infill", "infills", multiple=True, metavar="TEXT", help="Text with gaps: <|mask|>, <|mask:3|>.")
@click.option(
    "--prompt-file", metavar="FILE", help='Prompts, one a line, or .jsonl with {"prompt": ...}; - is what is piped in.'
)
@click.option("--num-samples", type=click.IntRange(min=1), default=1, metavar="N", help="Texts for each prompt.")
@click.option("--batch-size", type=click.IntRange(min=1), default=8, metavar="N", help="Texts at once.  [default: 8]")
@click.option("--watch", is_flag=True, help="Redraw the text in the terminal while it is denoised.")
@click.option("--trace", metavar="FILE.html", help="Write a page with a slider over the steps of the one text.")
@click.option("--out", metavar="FILE", help="Write one JSON object a text to FILE; - prints them.")
@sampling_options
def generate(
    prompts: tuple[str, ...],
    infills: tuple[str, ...],
    prompt_file: str | None,
    num_samples: int,
    batch_size: int,
    watch: bool,
    trace: str | None,
    out: str | None,
    **options: Any,
) -> None:
    """Generate text from a trained folder by iterative unmasking.

    Options of a component follow its name after a dot: --remasking.temperature 0.5, --cache.refresh_every 8.
    Without --prompt, --prompt-file and --infill, prompts are read from what is piped in, as with --prompt-file -.
    Tokens per forward, tokens per second and the number of forwards are printed at the end.
    """
    out_file = None if out == "-" else file_to_write("--out", out)
    trace_file = file_to_write("--trace", trace)
    texts = _texts(prompts, prompt_file, may_be_piped=not infills)
    if trace_file and (len(texts) + len(infills)) * num_samples != 1:
        raise click.UsageError("--trace follows one text: give one prompt, and one sample")
    from dlm_cli.generation import Tracer, Watch, run_tasks, watcher

    session = open_session(click.get_current_context(), options)
    tasks = session.tasks(texts, infills, num_samples)
    tracer = Tracer(session, trace_file) if trace_file else None
    watches: list[Watch] = [*([tracer] if tracer else []), *([watcher(session)] if watch else [])]
    if out is None:
        statistics = run_tasks(
            session, tasks, batch_size, lambda result: print_result(result, len(tasks) == 1), watches
        )
    elif out_file is None:
        from dlm_cli.result_file import print_line

        statistics = run_tasks(session, tasks, batch_size, print_line, watches)
    else:
        from dlm_cli.result_file import ResultFile

        with ResultFile(out_file, len(tasks)) as file:
            statistics = run_tasks(session, tasks, batch_size, file.write, watches)
    if tracer:
        tracer.write()
    click.echo(str(statistics), err=True)


def _texts(prompts: tuple[str, ...], prompt_file: str | None, *, may_be_piped: bool) -> list[str]:
    """The texts to continue; those that are piped in, where nothing else is asked for."""
    if not prompt_file and (prompts or not may_be_piped):
        return [*prompts]
    nothing = click.UsageError("nothing to generate: give --prompt, --prompt-file or --infill, or pipe prompts in")
    if not prompt_file and (sys.stdin is None or sys.stdin.isatty()):
        raise nothing
    from dlm.sampling.prompts import piped_prompts, read_prompts

    if prompt_file:
        return [*prompts, *read_prompts(prompt_file)]
    piped = piped_prompts()
    if not piped:
        raise nothing
    return piped


def print_result(result: "Result", is_only: bool) -> None:
    """Print a text; where there are several, with the prompt it belongs to. Without a reader, that is the end."""
    if not is_only:
        click.echo(f"--- {result.prompt} [{result.sample}]")
    click.echo(result.text)
    if not is_only and has_no_reader():
        click.get_current_context().exit(0)
