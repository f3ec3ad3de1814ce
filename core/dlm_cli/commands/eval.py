"""``dlm eval``: likelihood, perplexity, accuracy, questions, answers, with intervals, tables and a report."""

import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin

import attrs
import click

from dlm_cli.destinations import file_to_write, folder_to_write

if TYPE_CHECKING:
    from dlm.config.eval_options import EvalOptions, Method
    from dlm.evaluation.intervals import Figure

_Command = TypeVar("_Command", bound=Callable[..., Any])
EXAMPLES = """\b
Examples:
  dlm eval --model runs/pretrain/final --out report
  dlm eval --model out/final --data ./texts --precision 0.5%
  dlm eval --model out/final --questions quiz.jsonl --answers sums.jsonl
  dlm eval --model new/final --against old/final
  dlm eval --model out/final --sweep sampling.steps=8,16,32
"""


def share(context: click.Context, option: click.Parameter, text: str) -> float:
    """A share as people write it: 1% or 0.01."""
    found = re.fullmatch(r"\s*(\d*\.?\d+)\s*(%?)\s*", text)
    if found is None:
        raise click.UsageError(f"--{option.name} {text}: expected a share such as 1% or 0.01")
    return float(found[1]) / (100 if found[2] else 1)


def measuring(command: _Command) -> _Command:
    """Add an option for each field of ``EvalOptions``."""
    from dlm.config.eval_options import EvalOptions

    for field in reversed(attrs.fields(EvalOptions)):
        command = _option(field)(command)
    return command


def _methods() -> click.Choice[str]:
    from dlm.config.eval_options import Method

    return click.Choice(get_args(Method))


def _option(field: "attrs.Attribute[Any]") -> Callable[[_Command], _Command]:
    name = f"--{field.name.replace('_', '-')}"
    # What a run file writes as null is an option that is not given.
    text, _, default = field.metadata["help"].removesuffix(".").partition("; null: ")
    if field.default is not None:
        default = f"{100 * field.default:g}%" if field.type is float else field.default
    help_text = f"{text}.  [default: {default}]" if default != "" else f"{text}."
    if get_origin(field.type) is Literal:
        return click.option(name, type=click.Choice(get_args(field.type)), default=field.default, help=help_text)
    if field.type is float:
        return click.option(name, default=default, metavar="SHARE", callback=share, help=help_text)
    kind, metavar = (int, "N") if field.type in (int, int | None) else (str, "DATA")
    return click.option(name, type=kind, default=field.default, metavar=metavar, help=help_text)


@click.command(name="eval", epilog=EXAMPLES)
@click.option(
    "--model", "models", multiple=True, required=True, metavar="FOLDER|HUB_NAME", help="What to evaluate. Repeatable."
)
@click.option("--against", metavar="FOLDER", help="Paired difference to another model, on the same masks.")
@click.option("--against-method", type=_methods(), help="How its choices are scored.  [default: as --method]")
@click.option("--sweep", "sweeps", multiple=True, metavar="KEY=A,B", help="Sampling settings to try. Repeatable.")
@click.option("--harness-tasks", metavar="A,B", help="Tasks of the lm-evaluation-harness (extra: dlm[eval]).")
@click.option("--include-path", metavar="DIR", help="Folder with harness tasks of your own.")
@measuring
@click.option("--out", metavar="DIR", help="Write report.json and report.html there.")
@click.option("--dry-run", is_flag=True, help="Say how many rows would go through the model, and stop.")
@click.option("--dtype", metavar="DTYPE", help="float32, bfloat16, ...  [default: as saved]")
@click.option("--device", metavar="DEVICE", help="cpu, cuda, mps, ...  [default: the accelerator, if there is one]")
@click.option("--trust-remote-code", is_flag=True, help="Let code that comes with the model run.")
def eval_(
    models: tuple[str, ...],
    against: str | None,
    against_method: "Method | None",
    sweeps: tuple[str, ...],
    harness_tasks: str | None,
    include_path: str | None,
    out: str | None,
    dry_run: bool,
    **options: Any,
) -> None:
    """Evaluate trained folders; without further options offline, on the rows their run held out.

    Draws are added until the interval of the draws is narrow enough. Two intervals of 95 % are given: of the draws
    alone, and of draws and data.
    """
    loading = {name: options.pop(name) for name in ("dtype", "device", "trust_remote_code")}
    chosen, folder = _options(options), folder_to_write("--out", out)
    if len(models) > 1 and against:
        raise click.UsageError("--against compares one --model with another: give one --model")
    if against_method and not against:
        raise click.UsageError("--against-method is of the model that --against names: give that too")
    if include_path and not harness_tasks:
        raise click.UsageError("--include-path is where --harness-tasks are looked for: give those too")
    from dlm.evaluation.evaluate import evaluate, new_report, open_model
    from dlm.evaluation.paired import against as compare
    from dlm.evaluation.sweep import parse_sweep, sweep

    grid = parse_sweep(sweeps)
    harness = None if harness_tasks is None else _harness()
    if dry_run:
        for name in models:
            click.echo(_needs(name, open_model(name, **loading), chosen))
        return
    report = new_report(" and ".join(models), shlex.join(["dlm", *sys.argv[1:]]), chosen)
    with EvalProgress() as progress:
        for name in models:
            found = evaluate(name, open_model(name, **loading), chosen, progress.tell)
            if harness is not None and harness_tasks is not None:
                same = {"draws": chosen.draws, "method": chosen.method, "seed": chosen.seed, **loading}
                found.results["harness"] = harness.run_tasks(name, harness_tasks.split(","), include_path, **same)
            report["models"].append(found.results)
        if against:
            other = attrs.evolve(chosen, method=against_method or chosen.method)
            report["against"] = compare(found, against, open_model(against, **loading), other, progress.tell)
        if grid:
            report["sweep"] = sweep(found, grid, chosen, progress.tell)
    _print(report)
    if folder is not None:
        _write(folder, report, models[0])


def _options(values: dict[str, Any]) -> "EvalOptions":
    from dlm.config.eval_options import EvalOptions
    from dlm.errors import UserInputError

    try:
        return EvalOptions(**values)
    except ValueError as error:
        raise UserInputError(str(error)) from error


def _harness() -> Any:
    """The adapter, or one line that says what is missing."""
    from dlm.errors import UserInputError

    try:
        from dlm.evaluation import harness
    except ModuleNotFoundError as error:
        raise UserInputError(f"--harness-tasks needs {error.name}: pip install 'dlm[eval]'") from error
    return harness


def _needs(name: str, session: Any, options: Any) -> str:
    from dlm.config.eval_options import DRAWS_PER_ROUND
    from dlm.evaluation.own_rows import evaluation_data

    data = evaluation_data(name, session, options.data, options.window)
    rows = len(data.rows)
    return (
        f"{name}: {rows:,} rows of {data.name}; {rows * DRAWS_PER_ROUND:,} to {rows * options.max_draws:,} rows "
        "through the model"
    )


def _print(report: dict[str, Any]) -> None:
    from dlm.evaluation.report import FIGURE_HEADER, difference_rows, figure_rows, models_table
    from dlm_cli.tables import format_table

    for results in report["models"]:
        click.echo(f"{results['model']['name']}: {results['data']['rows']:,} rows of {results['data']['name']}")
        for note in results["data"]["notes"]:
            click.echo(f"  {note}")
        click.echo(format_table(FIGURE_HEADER, figure_rows(results), indent="  "))
        likelihood = results["likelihood"]
        reached = "" if likelihood["is_as_precise_as_asked"] else "; --max-draws ended it before --precision was met"
        click.echo(f"  {likelihood['draws_per_row']} masks a row{reached}")
    if len(report["models"]) > 1:
        click.echo("side by side, with 95 % (draws and data):")
        click.echo(format_table(*models_table(report["models"]), indent="  "))
    if comparison := report.get("against"):
        click.echo(f"more than {comparison['model']['name']}, paired:")
        click.echo(format_table(FIGURE_HEADER, difference_rows(comparison), indent="  "))
        if "note" in comparison:
            click.echo(f"  {comparison['note']}")
    if swept := report.get("sweep"):
        names = list(swept[0]["figures"])
        rows = [
            [
                each["settings"],
                f"{each['tokens_per_forward']:.2f}",
                *(f"{each['figures'][name]['value']:.3f}" for name in names),
            ]
            for each in swept
        ]
        click.echo(format_table(("settings", "tokens a forward", *names), rows))


def _write(folder: Path, report: dict[str, Any], model: str) -> None:
    from dlm.evaluation.own_rows import run_of
    from dlm.evaluation.report import write_report
    from dlm.training.output_folder import REPORT_PAGE

    for note in write_report(folder, report, run_of(model)):
        click.echo(f"dlm: note: {note}", err=True)
    click.echo(f"report written to {folder / REPORT_PAGE}", err=True)


class EvalProgress:
    """A bar on a terminal that shows the interval as it narrows; nothing elsewhere."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(
            *columns, TextColumn("{task.fields[figure]}"), console=Console(stderr=True), disable=not sys.stderr.isatty()
        )
        self._task: Any = None

    def __enter__(self) -> "EvalProgress":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def tell(self, what: str, done: int, total: int, figure: "Figure | None") -> None:
        """Show how far it is."""
        if self._task is None:
            self._task = self._progress.add_task(what, total=total, figure="")
        shown = "" if figure is None else f"{figure.value:.4f} +-{100 * figure.relative:.2f} %"
        self._progress.update(self._task, description=what, completed=done, total=total, figure=shown)


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--out", metavar="FILE.html", help="The page to write.  [default: report.html in the run's folder]")
def report(run: str, out: str | None) -> None:
    """Write the page of a run: training curves, samples over time, and what evaluation.at_end found, if anything.

    Nothing is evaluated.
    """
    written = file_to_write("--out", out)
    from dlm.errors import UserInputError
    from dlm.evaluation.evaluate import versions
    from dlm.evaluation.report import page_of, report_in
    from dlm.training.output_folder import METRICS, REPORT_PAGE
    from dlm.user_paths import user_path

    folder = user_path(run)
    if not (folder / METRICS).is_file():
        raise UserInputError(f"{run}: no {METRICS} here: give the output folder of a run")
    path = written or folder / REPORT_PAGE
    made = {"title": run, "command": shlex.join(["dlm", *sys.argv[1:]]), "versions": versions()}
    page, notes = page_of(report_in(folder) or made, folder)
    path.write_text(page, encoding="utf-8")
    for note in notes:
        click.echo(f"dlm: note: {note}", err=True)
    click.echo(str(path))
