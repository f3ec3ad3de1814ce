"""``report.json`` and ``report.html``: every figure with its intervals; plots, curves and samples of the run."""

import html
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

from dlm.training.checkpoints.publishing import write_file
from dlm.training.output_folder import METRICS, REPORT_JSON, REPORT_PAGE, SAMPLES, strict_json

_PLACE = "<!--REPORT-->"


def write_report(folder: Path, report: Mapping[str, Any], run: Path | None) -> list[str]:
    """Write both files; what is in ``folder`` under these names is replaced.

    Args:
        folder: made where it does not exist.
        report: what ``report.json`` is to hold; numbers that are not finite become null.
        run: folder of the run, whose curves and samples the page shows; None: there is none.

    Returns:
        Notes for the user.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(strict_json(report), indent=1, ensure_ascii=False, allow_nan=False)
    page, notes = page_of(report, run)
    # The page first: who finds this report in the JSON takes the page beside it for its own.
    write_file(folder / REPORT_PAGE, page)
    write_file(folder / REPORT_JSON, text + "\n")
    return notes


def report_in(folder: Path) -> dict[str, Any] | None:
    """The report that is in a folder; None: there is none, or it cannot be read."""
    with suppress(OSError, ValueError):
        found = json.loads((folder / REPORT_JSON).read_text(encoding="utf-8"), object_hook=_with_value)
        return found if isinstance(found, dict) else None
    return None


def _with_value(found: dict[str, Any]) -> dict[str, Any]:
    """A figure whose value is null was no number."""
    return found | {"value": math.nan} if found.get("value", 0) is None else found


def page_of(report: Mapping[str, Any], run: Path | None) -> tuple[str, list[str]]:
    """The page, which needs nothing from elsewhere, and notes for the user."""
    metrics = [] if run is None else _lines(run / METRICS)
    # What was written to be learned from is not what the model writes when it is asked.
    samples = [] if run is None else [each for each in _lines(run / SAMPLES) if each.get("split") != "train"]
    notes: list[str] = []
    try:
        from dlm.evaluation.plots import plots_of

        plots = plots_of(report, metrics)
    except ModuleNotFoundError as error:
        plots = {}
        notes.append(f"the page has no plots: {error.name} is not installed (pip install 'dlm[eval]')")
    parts = [f"<h1>{html.escape(str(report.get('title', 'Report')))}</h1>"]
    parts += [f'<p class="note">{html.escape(note)}</p>' for note in (*report.get("notes", ()), *notes)]
    models = report.get("models", ())
    if len(models) > 1:
        parts.append(f"<h2>Side by side</h2>{table(*models_table(models))}")
    parts += [_model_section(each) for each in models]
    if report.get("against"):
        parts.append(_against_section(report["against"]))
    if report.get("sweep"):
        parts.append(_sweep_section(report["sweep"]))
    if plots:
        figures = "".join(
            f"<figure><figcaption>{html.escape(title)}</figcaption>{svg}</figure>" for title, svg in plots.items()
        )
        parts.append(f'<h2>Plots</h2><div class="plots">{figures}</div>')
    if samples:
        parts.append(_sample_section(samples))
    parts.append(_facts(report))
    template = (files("dlm.evaluation") / "report.html").read_text(encoding="utf-8")
    head, place, tail = template.partition(_PLACE)
    assert place, "the template has a place for the report"
    return head + "\n".join(parts) + tail, notes


def _lines(path: Path) -> list[dict[str, Any]]:
    """Records of a log; what a run that is being written to has not finished is left out."""
    if not path.is_file():
        return []
    records = []
    # As bytes: a text has other ends of lines within it, and what is not finished may end within a character.
    for line in path.read_bytes().splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table that scrolls by itself where it is wider than the page."""
    head = "".join(f"<th>{html.escape(each)}</th>" for each in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(each)}</td>" for each in row) + "</tr>" for row in rows)
    return f'<div class="table"><table><tr>{head}</tr>{body}</table></div>'


def interval_text(interval: Sequence[float] | None, digits: int = 4) -> str:
    """[low, high] for people; a dash where there is none."""
    return "-" if interval is None or None in interval else f"[{interval[0]:.{digits}g}, {interval[1]:.{digits}g}]"


def figure_rows(results: Mapping[str, Any]) -> list[list[str]]:
    """Every figure of one model, a row each: what, value, interval of the draws, interval of draws and data."""
    likelihood = results["likelihood"]
    names = {"nats_per_token": "nats a token", "bits_per_byte": "bits a byte", "perplexity": "perplexity"}
    rows = []
    for key, label in names.items():
        if key in likelihood:
            each = likelihood[key]
            rows.append(
                [
                    f"{label} (at most)",
                    f"{each['value']:.4g}",
                    interval_text(each["interval_of_draws"]),
                    interval_text(each.get("interval_of_draws_and_data")),
                ]
            )
    for section in ("questions", "answers"):
        for name, each in results.get(section, {}).get("metrics", {}).items():
            arrow = "" if each["higher_is_better"] else " (less is better)"
            rows.append([f"{section}: {name}{arrow}", f"{each['value']:.4g}", "", interval_text(each["interval"])])
    if "preferences" in results:
        share, margin = results["preferences"]["chosen_is_likelier"], results["preferences"]["margin"]
        rows.append(["preferences: chosen is likelier", f"{share['value']:.4g}", "", interval_text(share["interval"])])
        rows.append(
            [
                "preferences: margin in nats",
                f"{margin['value']:.4g}",
                "",
                interval_text(margin["interval_of_draws_and_data"]),
            ]
        )
    for task, values in results.get("harness", {}).get("results", {}).items():
        for key, value in values.items():
            if isinstance(value, float) and "_stderr" not in key:
                rows.append([f"{task}: {key.partition(',')[0]}", f"{value:.4g}", "", _around(values, key)])
    sampling = results["sampling"]
    rows.append(["tokens a forward", f"{sampling['tokens_per_forward']:.3g}", "", ""])
    rows.append(["tokens a second", f"{sampling['tokens_per_second']:.3g}", "", ""])
    return rows


def models_table(models: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the figures of several models side by side: value, and interval of draws and data."""
    columns = [{name: (value, both) for name, value, _, both in figure_rows(each)} for each in models]
    rows = [
        [name, *(" ".join(part for part in column.get(name, ("-", "")) if part) for column in columns)]
        for name in dict.fromkeys(name for column in columns for name in column)
    ]
    return ["figure", *(str(each["model"]["name"]) for each in models)], rows


def _around(values: Mapping[str, Any], key: str) -> str:
    """The normal interval of a figure of the harness, from its standard error."""
    name, _, rest = key.partition(",")
    error = values.get(f"{name}_stderr,{rest}")
    if not isinstance(error, float):
        return "-"
    return interval_text([values[key] - 1.96 * error, values[key] + 1.96 * error])


FIGURE_HEADER = ("figure", "value", "95 % (draws)", "95 % (draws and data)")


def _model_section(results: Mapping[str, Any]) -> str:
    model, data = results["model"], results["data"]
    facts = f"{model['parameters']:,} parameters, {model['dtype']}; {data['rows']:,} rows of {data['name']}"
    notes = "".join(f'<p class="note">{html.escape(note)}</p>' for note in data["notes"])
    return (
        f"<h2>{html.escape(model['name'])}</h2><p>{html.escape(facts)}</p>{notes}"
        + table(FIGURE_HEADER, figure_rows(results))
        + _texts("Samples", results["sampling"]["samples"])
    )


def _texts(title: str, samples: Sequence[Mapping[str, Any]]) -> str:
    shown = "".join(
        f"<p><span class='quiet'>{html.escape(str(each['prompt']))}</span>{html.escape(str(each['text']))}</p>"
        for each in samples
    )
    return f"<details><summary>{title}</summary><div class='texts'>{shown}</div></details>"


def difference_rows(comparison: Mapping[str, Any]) -> list[list[str]]:
    """Every paired difference to another model, a row each, as :func:`figure_rows` has them."""
    key = next(key for key in comparison if key.endswith("_difference"))
    each = comparison[key]
    rows = [
        [
            key.removesuffix("_difference").replace("_per_", " a "),
            f"{each['value']:.4g}",
            interval_text(each["interval_of_draws"]),
            interval_text(each["interval_of_draws_and_data"]),
        ]
    ]
    for section, differences in comparison["item_differences"].items():
        for name, each in differences.items():
            rows.append([f"{section}: {name}", f"{each['value']:.4g}", "", interval_text(each["interval"])])
    return rows


def _against_section(comparison: Mapping[str, Any]) -> str:
    note = f'<p class="note">{html.escape(comparison["note"])}</p>' if "note" in comparison else ""
    title = html.escape(f"More than {comparison['model']['name']} (paired)")
    return f"<h2>{title}</h2>{note}{table(FIGURE_HEADER, difference_rows(comparison))}"


def _sweep_section(sweep: Sequence[Mapping[str, Any]]) -> str:
    names = list(sweep[0]["figures"])
    rows = [
        [
            each["settings"],
            f"{each['tokens_per_forward']:.3g}",
            *(f"{each['figures'][name]['value']:.4g}" for name in names),
        ]
        for each in sweep
    ]
    return f"<h2>Speed and quality</h2>{table(('settings', 'tokens a forward', *names), rows)}"


def _sample_section(samples: Sequence[Mapping[str, Any]]) -> str:
    steps: dict[int, list[Mapping[str, Any]]] = {}
    for each in samples:
        steps.setdefault(each["step"], []).append(each)
    return "<h2>Samples over time</h2>" + "".join(_texts(f"step {step}", some) for step, some in steps.items())


def _facts(report: Mapping[str, Any]) -> str:
    rows = [["command", str(report.get("command", ""))], ["seed", str(report.get("seed", ""))]]
    rows += [[name, version] for name, version in report.get("versions", {}).items()]
    for results in report.get("models", ()):
        rows.append([f"weights of {results['model']['name']}", str(results["model"]["weights_sha256"])])
        rows.append(["data fingerprint", str(results["data"]["fingerprint"])])
    return f"<details><summary>How this was made</summary>{table(('what', 'value'), rows)}</details>"
