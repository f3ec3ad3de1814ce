"""Sweeps of sampling settings: tokens a forward against quality, the speed-quality curve."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from dlm.config.sampling_settings import SamplingSettings
from dlm.errors import UserInputError
from dlm.evaluation.items import Pace, Task, answer_items, metric_figures, read_tasks
from dlm.evaluation.likelihood import ScoredText, score_texts
from dlm.sampling.arguments import settings_of
from dlm.sampling.prompts import prompt_ids
from dlm_plugins import MetricItem
from dlm_plugins.suggestions import did_you_mean

if TYPE_CHECKING:
    from dlm.config.eval_options import EvalOptions
    from dlm.evaluation.evaluate import Evaluated, Tell

_PROMPTS = 16


def parse_sweep(sweeps: Sequence[str]) -> dict[str, list[Any]]:
    """Values of each sampling setting, from ``sampling.steps=8,16``.

    Raises:
        UserInputError: no such setting, or no value.
    """
    known = [field.name for field in attrs.fields(SamplingSettings)]
    found: dict[str, list[Any]] = {}
    for each in sweeps:
        key, _, values = each.partition("=")
        name = key.removeprefix("sampling.")
        if name not in known:
            raise UserInputError(f"--sweep {each}: no setting {name!r}{did_you_mean(name, known)}")
        if not all(values.split(",")):
            raise UserInputError(f"--sweep {each}: expected {key}=VALUE,VALUE")
        found[name] = [_value(value) for value in values.split(",")]
    return found


def _value(text: str) -> Any:
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text


def sweep(
    one: "Evaluated", grid: Mapping[str, Sequence[Any]], options: "EvalOptions", tell: "Tell"
) -> list[dict[str, Any]]:
    """Every combination: on the answers, or else on prompts of the data by diversity and the model's own bound.

    Perplexity under the model itself falls where a text repeats itself: entropy stands beside it.
    """
    session = one.session
    tasks = read_tasks(options.answers) if options.answers else _prompts(one)
    metrics, found = one.metrics, []
    combinations = list(product(*grid.values()))
    for number, values in enumerate(combinations, start=1):
        changes = dict(zip(grid, values, strict=True))
        changed = attrs.evolve(session, settings=_changed(session.settings, changes))
        items, pace = [], Pace()
        for some in answer_items(changed, tasks, options.batch_size, pace):
            items += some
        figures = metric_figures(metrics, items, "generation")
        if not options.answers:
            figures = {name: figures[name] for name in figures if name in ("distinct_n", "entropy")}
            figures["own nats a token"] = _own_nats(one, items, options)
        found.append(
            {
                "settings": ", ".join(f"{name}={value}" for name, value in changes.items()),
                "tokens_per_forward": pace.tokens_per_forward,
                "figures": figures,
            }
        )
        tell("sweep", number, len(combinations), None)
    return found


def _changed(settings: SamplingSettings, changes: Mapping[str, Any]) -> SamplingSettings:
    made = settings_of(changes)
    return attrs.evolve(settings, **{name: getattr(made, name) for name in changes})


def _prompts(one: "Evaluated") -> list[Task]:
    """Beginnings of the rows that were scored."""
    decode = one.session.tokenizer.decode
    rows = one.data.rows[:_PROMPTS]
    texts = [
        decode(row.input_ids[: max(len(row.input_ids) // 4, 1)].tolist(), skip_special_tokens=True) for row in rows
    ]
    return [Task(prompt=text, references=("",)) for text in texts]


def _own_nats(one: "Evaluated", items: Sequence[MetricItem], options: "EvalOptions") -> dict[str, Any]:
    """What the model itself thinks of the very ids that it wrote."""
    from dlm.evaluation.scoring import Scorer
    from dlm.model.tokenizer import num_ids

    session = one.session
    scorer = Scorer.of(session.model, num_ids=num_ids(session.tokenizer), batch_tokens=options.batch_tokens)
    texts = [
        ScoredText.of_ids(
            prompt_ids(session.tokenizer, item.prompt, session.rendering), item.answer_ids, scorer.blocks_from_start
        )
        for item in items
        if item.answer_ids
    ]
    estimates, _ = score_texts(scorer, texts, method=options.method, draws=options.draws, seed=options.seed)
    tokens = sum(each.length for each in texts)
    return {"value": sum(each.value for each in estimates) / tokens if tokens else float(np.nan)}
