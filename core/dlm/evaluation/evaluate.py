"""``dlm eval`` without its command line: everything that is measured of one model."""

import platform
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from time import perf_counter
from typing import Any

import attrs
import numpy as np
import torch
import transformers

import dlm
from dlm.config import RunConfig
from dlm.config.eval_options import DRAWS_PER_ROUND, EvalOptions
from dlm.evaluation.corpus import Bins, Measurement, Progress, measure
from dlm.evaluation.intervals import Figure, mean_figure, wilson
from dlm.evaluation.items import (
    Likelihoods,
    Pace,
    Preference,
    Question,
    Task,
    answer_items,
    metric_figures,
    question_items,
    read_preferences,
    read_questions,
    read_tasks,
)
from dlm.evaluation.own_rows import EvaluationData, evaluation_data, run_config
from dlm.evaluation.scoring import Scorer
from dlm.model.body_and_head import num_parameters
from dlm.model.tokenizer import num_ids
from dlm.sampling.arguments import component, settings_of
from dlm.sampling.prompts import longest
from dlm.sampling.resolve import gen_length_of
from dlm.sampling.session import Session
from dlm_plugins import Metric

Tell = Callable[[str, int, int, Figure | None], None]
"""Takes what is being done, how much of how much is done, and the figure so far."""
DEFAULT_METRICS = {
    "accuracy": "accuracy",
    "accuracy per token": {"name": "accuracy", "per": "token"},
    "accuracy per byte": {"name": "accuracy", "per": "byte"},
    "elbo": "elbo",
    "exact_match": "exact_match",
    "contains": "contains",
    "number": "number",
    "distinct_n": "distinct_n",
    "entropy": "entropy",
}
_SPEED_PROMPTS = ("The ", "In ", "A ", "If ")
_SPEED_LENGTH = 32
"""Tokens of a sample where no run says it: longer ones take a model of 135 million parameters minutes."""


@attrs.frozen(kw_only=True)
class Items:
    """What is asked beside the data's likelihood, read before anything is computed."""

    questions: Sequence[Question] | None
    tasks: Sequence[Task] | None
    preferences: Sequence[Preference] | None

    @classmethod
    def read(cls, options: EvalOptions) -> "Items":
        """Read the files that the options name.

        Raises:
            DataError: one that is not there, or a row in it that is not as it should be.
        """
        return cls(
            questions=None if options.questions is None else read_questions(options.questions),
            tasks=None if options.answers is None else read_tasks(options.answers),
            preferences=None if options.preferences is None else read_preferences(options.preferences),
        )


@attrs.define(kw_only=True, eq=False)
class Evaluated:
    """A model with what was measured of it."""

    name: str
    session: Session
    data: EvaluationData
    metrics: Mapping[str, Metric]
    measurement: Measurement
    results: dict[str, Any]
    """What the report holds."""


def open_model(name: str, **options: Any) -> Session:
    """Load a model, to be sampled from as its run says.

    Raises:
        ModelError: no model there that can be evaluated.
    """
    config: RunConfig | None = run_config(name)
    return Session.open(name, settings_of({}) if config is None else config.sampling, **options)


def evaluate(
    name: str,
    session: Session,
    options: EvalOptions,
    tell: Tell = lambda *_: None,
    data: EvaluationData | None = None,
) -> Evaluated:
    """Measure one model.

    Args:
        name: of the model, as the user wrote it.
        session: of :func:`open_model`.
        options: what is wanted.
        tell: told how far it is.
        data: rows to score; None: those that the options and the model's run say.

    Raises:
        DlmError: data that cannot be used.
    """
    items, config = Items.read(options), run_config(name)
    data = evaluation_data(name, session, options.data, options.window) if data is None else data
    scorer = Scorer.of(session.model, num_ids=num_ids(session.tokenizer), batch_tokens=options.batch_tokens)
    least = len(data.rows) * DRAWS_PER_ROUND

    def on_progress(progress: Progress) -> None:
        done, figure = progress.num_rows, progress.nats_per_token
        tell("likelihood", done, max(least, -(-done // least) * least), figure)

    measurement = measure(
        scorer,
        data.rows,
        data.num_bytes,
        seed=options.seed,
        precision=options.precision,
        max_draws=options.max_draws,
        isolate_documents=data.isolate_documents,
        on_progress=on_progress,
    )
    results: dict[str, Any] = {"model": _model_facts(name, session), "data": _data_facts(data)}
    results["likelihood"] = likelihood_results(measurement)
    results["by_mask_rate"] = _bin_results(measurement.by_rate)
    results["calibration"] = _bin_results(measurement.by_confidence)
    results["sampling"] = _speed(session, config)
    metrics = metrics_of(config)
    results |= _item_results(session, scorer, options, items, metrics, tell)
    return Evaluated(name=name, session=session, data=data, metrics=metrics, measurement=measurement, results=results)


def figure_results(figure: Figure) -> dict[str, Any]:
    """A figure with its two intervals, as a report holds it; null for an interval that a single text cannot have."""

    def around(half: float) -> list[float] | None:
        return [figure.value - half, figure.value + half] if np.isfinite(half) else None

    return {
        "value": figure.value,
        "interval_of_draws": around(figure.draws),
        "interval_of_draws_and_data": around(figure.data),
    }


def likelihood_results(measurement: Measurement) -> dict[str, Any]:
    """Nats a token, bits a byte, perplexity."""
    nats = measurement.nats_per_token
    results: dict[str, Any] = {"nats_per_token": figure_results(nats)}
    if measurement.num_bytes.sum() > 0:
        results["bits_per_byte"] = figure_results(measurement.bits_per_byte)
    results["perplexity"] = {
        "value": float(np.exp(nats.value)),
        "interval_of_draws": [float(np.exp(nats.value - nats.draws)), float(np.exp(nats.value + nats.draws))],
    }
    return results | {
        "is_bound": True,
        "draws_per_row": measurement.draws,
        "rows_through_the_model": measurement.num_rows,
        "is_as_precise_as_asked": measurement.is_precise,
    }


def _bin_results(bins: Bins) -> list[dict[str, Any]]:
    found = []
    for index, count in enumerate(bins.count):
        low, high = wilson(bins.correct[index], int(count))
        found.append(
            {
                "from": index / len(bins.count),
                "to": (index + 1) / len(bins.count),
                "positions": int(count),
                "cross_entropy": bins.cross_entropy[index] / count if count else None,
                "accuracy": bins.correct[index] / count if count else None,
                "accuracy_interval": [low, high] if count else None,
                "confidence": bins.confidence[index] / count if count else None,
            }
        )
    return found


def _speed(session: Session, config: RunConfig | None) -> dict[str, Any]:
    """Tokens a forward of each sample, and a second of all together, sampled as the run file says."""
    prompts = (config.evaluation.sample_prompts if config else ()) or _SPEED_PROMPTS
    tasks = session.tasks(prompts)
    if session.settings.gen_length is None:
        length = min(_SPEED_LENGTH, gen_length_of(session.model.config, None, longest([each.ids for each in tasks])))
        session = attrs.evolve(session, settings=attrs.evolve(session.settings, gen_length=length))
    pace, seconds, samples = Pace(), 0.0, []
    for batch in session.batches(tasks, len(tasks)):
        started = perf_counter()
        *_, state = session.states(batch)
        seconds += perf_counter() - started
        results = session.results(batch, state)
        pace.add([each.num_tokens for each in results], state.num_forwards)
        samples += [{"prompt": each.prompt, "text": each.text} for each in results]
    return {
        "texts": len(tasks),
        "tokens": pace.num_tokens,
        "tokens_per_forward": pace.tokens_per_forward,
        "tokens_per_second": pace.num_tokens / max(seconds, 1e-9),
        "samples": samples,
    }


def metrics_of(config: RunConfig | None) -> dict[str, Metric]:
    """The metrics of a model: those of its run's ``evaluation.metrics``, else those that fit."""
    if config is not None and config.evaluation.metrics:
        # A class with the options that differ is the name a reader knows it by.
        return {str(metric): metric for metric in config.evaluation.metrics}
    return {label: component("metric", value) for label, value in DEFAULT_METRICS.items()}


def _item_results(
    session: Session,
    scorer: Scorer,
    options: EvalOptions,
    asked: Items,
    metrics: Mapping[str, Metric],
    tell: Tell,
) -> dict[str, Any]:
    results: dict[str, Any] = {}
    likelihoods = Likelihoods(
        session=session, scorer=scorer, method=options.method, draws=options.draws, seed=options.seed
    )
    if asked.questions is not None:
        found = _question_results(asked.questions, likelihoods, metrics, tell)
        results["questions"] = {"data": options.questions, **found}
    if asked.tasks is not None:
        items, pace = [], Pace()
        for some in answer_items(session, asked.tasks, options.batch_size, pace):
            items += some
            tell("answers", len(items), len(asked.tasks), None)
        results["answers"] = {
            "data": options.answers,
            "metrics": metric_figures(metrics, items, "generation"),
            "tokens_per_forward": pace.tokens_per_forward,
            "items": [{"prompt": each.prompt, "answer": each.answer, "references": each.references} for each in items],
        }
    if asked.preferences is not None:
        found = _preference_results(asked.preferences, likelihoods, tell)
        results["preferences"] = {"data": options.preferences, **found}
    return results


def _question_results(
    questions: Sequence[Question], likelihoods: Likelihoods, metrics: Mapping[str, Metric], tell: Tell
) -> dict[str, Any]:
    choices, num_rows = _told(
        likelihoods, [(q.prompt, each) for q in questions for each in q.choices], "questions", tell
    )
    items = question_items(questions, choices)
    return {
        "method": likelihoods.method,
        "metrics": metric_figures(metrics, items, "likelihood"),
        "rows_through_the_model": num_rows,
        "margins": [_margin(item.choices, item.right_choice) for item in items],
    }


def _margin(choices: Sequence[Any], right: int) -> float:
    """Log-likelihood of the right choice minus that of the best other."""
    return float(
        choices[right].log_likelihood - max(each.log_likelihood for i, each in enumerate(choices) if i != right)
    )


def _preference_results(pairs: Sequence[Preference], likelihoods: Likelihoods, tell: Tell) -> dict[str, Any]:
    wanted = [(pair.prompt, text) for pair in pairs for text in (pair.chosen, pair.rejected)]
    choices, num_rows = _told(likelihoods, wanted, "preferences", tell)
    values = np.array([each.log_likelihood for each in choices]).reshape(-1, 2)
    margins = values[:, 0] - values[:, 1]
    low, high = wilson(float((margins > 0).sum()), len(margins))
    return {
        "method": likelihoods.method,
        "chosen_is_likelier": {"value": float((margins > 0).mean()), "interval": [low, high], "number": len(margins)},
        "margin": figure_results(mean_figure(margins)),
        "rows_through_the_model": num_rows,
        "margins": margins.tolist(),
    }


def _told(likelihoods: Likelihoods, pairs: Sequence[tuple[str, str]], what: str, tell: Tell) -> Any:
    done = 0

    def on_rows(more: int) -> None:
        nonlocal done
        done += more
        tell(what, done, done, None)

    return likelihoods.choices(pairs, on_rows)


def weights_digest(folder: Path) -> str | None:
    """SHA-256 of the weights in a folder; None where it has none."""
    weights, digest = sorted(folder.glob("*.safetensors")), sha256()
    for file in weights:
        with file.open("rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
    return digest.hexdigest() if weights else None


def _model_facts(name: str, session: Session) -> dict[str, Any]:
    return {
        "name": name,
        "parameters": num_parameters(session.model)[0],
        "weights_sha256": weights_digest(Path(name)),
        "dtype": str(session.model.dtype).removeprefix("torch."),
        "device": str(session.model.device),
    }


def _data_facts(data: EvaluationData) -> dict[str, Any]:
    return {
        "name": data.name,
        "rows": len(data.rows),
        "tokens": int(sum(int(row.eligible.sum()) for row in data.rows)),
        "bytes": int(sum(data.num_bytes)),
        "fingerprint": data.fingerprint,
        "notes": list(data.notes),
    }


def new_report(title: str, command: str, options: EvalOptions) -> dict[str, Any]:
    """What a report says of itself; the models are yet to come."""
    return {
        "title": title,
        "command": command,
        "seed": options.seed,
        "versions": versions(),
        "notes": [],
        "models": [],
    }


def versions() -> dict[str, str]:
    """Of what computes the figures."""
    return {
        "dlm": dlm.__version__,
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
