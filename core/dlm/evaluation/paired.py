"""``dlm eval --against``: two models on the same masks and items; paired differences with their intervals."""

from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np

from dlm.config.eval_options import EvalOptions
from dlm.evaluation.evaluate import Evaluated, Tell, evaluate, figure_results
from dlm.evaluation.intervals import mean_figure
from dlm.evaluation.mask_designs import Floats
from dlm.evaluation.own_rows import for_other_tokenizer
from dlm.sampling.session import Session

_ITEM_SECTIONS = ("questions", "answers", "preferences")


def against(one: Evaluated, name: str, session: Session, options: EvalOptions, tell: Tell) -> dict[str, Any]:
    """What another model says of the same rows and items, and the paired differences (one minus the other)."""
    same = one.session.tokenizer.get_vocab() == session.tokenizer.get_vocab()
    data = one.data if same else for_other_tokenizer(one.data, one.session, session)
    # The same draws for both, however narrow the interval of either.
    fixed = attrs.evolve(options, max_draws=one.measurement.draws, precision=1e-9)
    other = evaluate(name, session, fixed, tell, data=data)
    found = {key: other.results[key] for key in ("model", "likelihood", *_ITEM_SECTIONS) if key in other.results}
    per = "num_tokens" if same else "num_bytes"
    difference = one.measurement.minus(other.measurement, per)
    if same:
        found["nats_per_token_difference"] = figure_results(difference)
    else:
        found["bits_per_byte_difference"] = figure_results(difference.scaled(1 / np.log(2)))
        found["note"] = "the models have different tokenizers: only bits a byte can be compared"
    found["item_differences"] = _item_differences(one.results, other.results)
    return found


def _item_differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Item by item, one minus the other: by section, then by metric. An interval is that of draws and data."""
    pairs: dict[str, dict[str, Any]] = {}
    for section in _ITEM_SECTIONS:
        if section not in one or section not in other:
            continue
        mine, theirs = _item_values(one[section]), _item_values(other[section])
        pairs[section] = {name: (mine[name], theirs[name]) for name in mine if name in theirs}
    return {
        section: {name: _mean_with_interval(np.subtract(*values)) for name, values in each.items()}
        for section, each in pairs.items()
    }


def _item_values(section: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: each["values"] for name, each in section.get("metrics", {}).items()}
    if "chosen_is_likelier" in section:
        margins = np.array(section["margins"])
        found |= {"chosen is likelier": (margins > 0).astype(np.float64), "margin in nats": margins}
    return found


def _mean_with_interval(values: Floats) -> dict[str, Any]:
    figure = figure_results(mean_figure(values))
    return {"value": figure["value"], "interval": figure["interval_of_draws_and_data"], "number": len(values)}
