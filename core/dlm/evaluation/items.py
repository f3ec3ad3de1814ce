"""Questions (multiple choice), prompts with answers, preferences: read from data, scored by metrics."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import attrs
import numpy as np
import torch

from dlm.config.eval_options import Method
from dlm.data.conversations.rendering import encode_text
from dlm.data.sources import load_source
from dlm.errors import DataError
from dlm.evaluation.intervals import mean_figure, wilson
from dlm.evaluation.likelihood import ScoredText, score_texts
from dlm.evaluation.scoring import Scorer
from dlm.sampling.prompts import prompt_ids
from dlm.sampling.session import Session
from dlm_plugins import Choice, Metric, MetricItem, MetricRequest
from dlm_plugins.metric import HIGHER_IS_BETTER, NEEDS

Item = TypeVar("Item")
_PROMPT_KEYS = ("question", "prompt", "instruction")


@attrs.frozen(kw_only=True)
class Question:
    """One with choices."""

    prompt: str
    choices: tuple[str, ...]
    right: int


@attrs.frozen(kw_only=True)
class Task:
    """A prompt and the answers that are right."""

    prompt: str
    references: tuple[str, ...]


@attrs.frozen(kw_only=True)
class Preference:
    """Two answers, the first of which is preferred."""

    prompt: str
    chosen: str
    rejected: str


def read_questions(name: str) -> list[Question]:
    """``question``, ``choices`` and ``answer``: the number of the right choice, from 0, or its text.

    Raises:
        DataError: no such data, or a row that is not as it should be, with its place.
    """
    return _read(name, _question)


def read_tasks(name: str) -> list[Task]:
    """``question`` (or ``prompt``) and ``answer``: a text, or several of which each is right.

    Raises:
        DataError: as :func:`read_questions`.
    """
    return _read(name, _task)


def read_preferences(name: str) -> list[Preference]:
    """``prompt`` (may be missing), ``chosen`` and ``rejected``.

    Raises:
        DataError: as :func:`read_questions`.
    """
    return _read(name, _preference)


def _read(name: str, parse: Callable[[Mapping[str, Any]], Item | str]) -> list[Item]:
    items = []
    for record in load_source(name).open():
        found = f"cannot be read: {record.problem}" if record.problem is not None else parse(record.values)
        if isinstance(found, str):
            raise DataError(f"{record.origin}: {found}")
        items.append(found)
    if not items:
        raise DataError(f"{name}: no row in it")
    return items


def _prompt(values: Mapping[str, Any]) -> str | None:
    found = next((values[key] for key in _PROMPT_KEYS if isinstance(values.get(key), str)), None)
    return found if found and found.strip() else None


def _question(values: Mapping[str, Any]) -> Question | str:
    prompt, choices, answer = _prompt(values), values.get("choices"), values.get("answer")
    if prompt is None:
        return 'no question: expected {"question": "...", "choices": ["...", "..."], "answer": 0}'
    if not isinstance(choices, Sequence) or isinstance(choices, str) or len(choices) < 2:
        return "choices: a list of at least two texts is needed"
    if not all(isinstance(each, str) and each for each in choices):
        return "choices: each must be a text that is not empty"
    if isinstance(answer, str) and answer in choices:
        answer = list(choices).index(answer)
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(choices):
        return f"answer is {answer!r}; it must be one of the choices, or its number from 0 to {len(choices) - 1}"
    return Question(prompt=prompt, choices=tuple(choices), right=answer)


def _task(values: Mapping[str, Any]) -> Task | str:
    prompt, answer = _prompt(values), values.get("answer", values.get("answers"))
    if prompt is None:
        return 'no question: expected {"question": "...", "answer": "..."}'
    references = [answer] if isinstance(answer, str | int | float) and not isinstance(answer, bool) else answer
    if not isinstance(references, Sequence) or isinstance(references, str) or not references:
        return f"answer is {answer!r}; it must be a text, or a list of texts of which each is right"
    texts = tuple(str(each) for each in references)
    return Task(prompt=prompt, references=texts) if all(texts) else "answer is empty"


def _preference(values: Mapping[str, Any]) -> Preference | str:
    chosen, rejected = values.get("chosen"), values.get("rejected")
    if not (isinstance(chosen, str) and isinstance(rejected, str) and chosen and rejected):
        return 'expected {"prompt": "...", "chosen": "...", "rejected": "..."} with texts that are not empty'
    return Preference(prompt=_prompt(values) or "", chosen=chosen, rejected=rejected)


@attrs.frozen(kw_only=True, eq=False)
class Likelihoods:
    """What choices are scored by."""

    session: Session
    scorer: Scorer
    method: Method
    draws: int
    seed: int

    def choices(
        self, pairs: Sequence[tuple[str, str]], on_rows: Callable[[int], None] | None = None
    ) -> tuple[list[Choice], int]:
        """A choice for each (prompt, text), and the number of rows that went through the model."""
        texts = [self._text(prompt, text) for prompt, text in pairs]
        estimates, num_rows = score_texts(
            self.scorer, texts, method=self.method, draws=self.draws, seed=self.seed, on_rows=on_rows
        )
        found = [
            Choice(text=text, log_likelihood=-each.value, num_tokens=scored.length)
            for (_, text), scored, each in zip(pairs, texts, estimates, strict=True)
        ]
        return found, num_rows

    def _text(self, prompt: str, text: str) -> ScoredText:
        """A model trained on conversations is asked the prompt; any other reads on, after a space."""
        session = self.session
        if session.rendering is None and prompt and not prompt[-1].isspace() and not text[0].isspace():
            text = f" {text}"
        before = prompt_ids(session.tokenizer, prompt, session.rendering) if prompt else []
        return ScoredText.of_ids(before, encode_text(text, session.tokenizer), self.scorer.blocks_from_start)


def question_items(questions: Sequence[Question], choices: Sequence[Choice]) -> list[MetricItem]:
    """Questions with the choices of all, one after the other."""
    left = iter(choices)
    return [
        MetricItem(
            prompt=each.prompt,
            references=(each.choices[each.right],),
            choices=tuple(next(left) for _ in each.choices),
            right_choice=each.right,
        )
        for each in questions
    ]


@attrs.define(kw_only=True)
class Pace:
    """Tokens a forward: of one text, over the forwards that its batch took. A larger batch makes it no higher."""

    num_tokens: int = 0
    num_forwards: int = 0
    """Forwards times the texts that went through them."""

    def add(self, lengths: Sequence[int], num_forwards: int) -> None:
        """Count a batch.

        Args:
            lengths: tokens of each of its texts.
            num_forwards: that all of them went through.
        """
        self.num_tokens += sum(lengths)
        self.num_forwards += num_forwards * len(lengths)

    @property
    def tokens_per_forward(self) -> float:
        """0 where nothing was written."""
        return self.num_tokens / max(self.num_forwards, 1)


def answer_items(session: Session, tasks: Sequence[Task], batch_size: int, pace: Pace) -> Iterator[list[MetricItem]]:
    """Answers that the model writes, batch by batch, counted by ``pace``."""
    wanted = session.tasks([each.prompt for each in tasks])
    for batch in session.batches(wanted, batch_size):
        *_, state = session.states(batch)
        items = [
            MetricItem(
                prompt=task.prompt,
                answer=result.text,
                answer_ids=result.ids,
                references=tasks[task.key].references,
            )
            for task, result in zip(batch.tasks, session.results(batch, state), strict=True)
        ]
        pace.add([len(item.answer_ids) for item in items], state.num_forwards)
        yield items


def metric_figures(metrics: Mapping[str, Metric], items: Sequence[MetricItem], needs: str) -> dict[str, Any]:
    """The mean of each metric over the items, with its interval: Wilson's where an item is right or wrong.

    A single item of another kind has none. The value of each item is there too, for paired differences.
    """
    found: dict[str, Any] = {}
    for name, metric in metrics.items():
        if NEEDS.of(metric) != needs:
            continue
        values = metric.score(MetricRequest(items=items)).to(torch.float64).numpy()
        figure = mean_figure(values)
        is_share = bool(np.isin(values, (0.0, 1.0)).all())
        around = [figure.value - figure.data, figure.value + figure.data] if np.isfinite(figure.data) else None
        found[name] = {
            "value": figure.value,
            "interval": list(wilson(values.sum(), len(values))) if is_share else around,
            "number": len(values),
            "higher_is_better": HIGHER_IS_BETTER.of(metric),
            "values": values.tolist(),
        }
    return found
