"""Plots of a report as SVG (matplotlib, extra ``eval``): by mask rate, reliability, margins, training curves."""

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure

_INK = "#010203"
"""Stands for the colour of the page's text, light or dark."""
_COLOURS = ("#3b7dd8", "#d9822b", "#3c9d6b", "#b0508f", "#8a6d3b", "#5b6ee1")
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "dlm",
    "font.size": 11,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def plots_of(report: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """SVG elements by title: of what was evaluated, then of the run's ``metrics.jsonl``."""
    models = report.get("models", ())
    plots: dict[str, str] = {}
    if models:
        plots["Cross-entropy by mask rate (nats)"] = _by_bin(models, "by_mask_rate", "cross_entropy", "mask rate")
        plots["Accuracy by mask rate, with 95 %"] = _by_bin(models, "by_mask_rate", "accuracy", "mask rate")
        plots["Reliability: accuracy by confidence"] = _by_bin(models, "calibration", "accuracy", "confidence", True)
    for section in ("questions", "preferences"):
        margins = {each["model"]["name"]: each[section]["margins"] for each in models if section in each}
        if margins:
            plots[f"Margins of {section} (nats)"] = _histogram(margins)
    if report.get("sweep"):
        plots["Speed and quality"] = _sweep(report["sweep"])
    for key, title in (("loss", "Loss over the run"), ("masked_accuracy", "Accuracy at masked positions over the run")):
        if any(each.get(key) is not None for each in metrics):
            plots[title] = _curves(metrics, key)
    return plots


def _drawn(draw: Callable[[Any], None], label: str) -> str:
    """One picture; colours that stand for the page's follow it."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(5.2, 3.4), layout="constrained")
        axes = figure.subplots()
        figure.patch.set_alpha(0)
        axes.patch.set_alpha(0)
        draw(axes)
        axes.set_xlabel(label)
        axes.grid(alpha=0.2, color=_INK)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, labelcolor=_INK)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue().replace(_INK, "currentColor")
    return re.sub(r"^.*?(?=<svg)", "", svg, flags=re.DOTALL)


def _by_bin(
    models: Sequence[Mapping[str, Any]], section: str, key: str, label: str, with_diagonal: bool = False
) -> str:
    def draw(axes: Any) -> None:
        if with_diagonal:
            axes.plot([0, 1], [0, 1], color=_INK, alpha=0.4, linewidth=1)
        for results, colour in zip(models, _COLOURS, strict=False):
            bins = [each for each in results[section] if each["positions"]]
            x = [each["confidence"] if with_diagonal else (each["from"] + each["to"]) / 2 for each in bins]
            y = [each[key] for each in bins]
            axes.plot(x, y, "o-", color=colour, label=results["model"]["name"] if len(models) > 1 else None)
            if key == "accuracy":
                low = [value - each["accuracy_interval"][0] for value, each in zip(y, bins, strict=True)]
                high = [each["accuracy_interval"][1] - value for value, each in zip(y, bins, strict=True)]
                axes.errorbar(x, y, yerr=[low, high], color=colour, fmt="none", capsize=2)
        axes.set_xlim(0, 1)
        axes.set_ylim(bottom=0)

    return _drawn(draw, label)


def _histogram(margins: Mapping[str, Sequence[float | None]]) -> str:
    def draw(axes: Any) -> None:
        for (name, values), colour in zip(margins.items(), _COLOURS, strict=False):
            # What is no number is null where a report was read back.
            finite = [value for value in values if value is not None and math.isfinite(value)]
            axes.hist(finite, bins=20, color=colour, alpha=0.7, label=name if len(margins) > 1 else None)
        axes.axvline(0, color=_INK, alpha=0.5)

    return _drawn(draw, "right minus best other")


def _sweep(sweep: Sequence[Mapping[str, Any]]) -> str:
    def draw(axes: Any) -> None:
        for name, colour in zip(sweep[0]["figures"], _COLOURS, strict=False):
            x = [each["tokens_per_forward"] for each in sweep]
            axes.plot(x, [each["figures"][name]["value"] for each in sweep], "o", color=colour, label=name)

    return _drawn(draw, "tokens a forward")


def _curves(metrics: Sequence[Mapping[str, Any]], key: str) -> str:
    def draw(axes: Any) -> None:
        for split, colour in zip(("train", "eval"), _COLOURS, strict=False):
            lines = [each for each in metrics if each.get("split") == split and each.get(key) is not None]
            style = "-" if split == "train" else "o-"
            axes.plot([each["step"] for each in lines], [each[key] for each in lines], style, color=colour, label=split)

    return _drawn(draw, "step")
