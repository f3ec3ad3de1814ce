"""Contract tests of metrics: finite numbers, one an item, each from that item alone; hostile answers; purity."""

import random
from collections.abc import Sequence
from functools import partial

import torch
from hypothesis import strategies as st
from torch import Tensor

from dlm_plugins.metric import HIGHER_IS_BETTER, NEEDS, Choice, Metric, MetricItem, MetricRequest
from dlm_plugins.testing.property_tools import (
    at_every_value,
    contract_property,
    for_all,
    require_equal,
)
from dlm_plugins.testing.scores import TEXTS, require_alone, require_same_again, require_scores

_HOSTILE = ("(" * 10_000, "9**" * 3_000 + "9", "1" * 20_000, " a" * 10_000, "\\frac{" * 2_000)


def _item(seed: int) -> MetricItem:
    """An item with everything a metric may need."""
    chance = random.Random(seed)
    answer = chance.choice(TEXTS)
    choices = tuple(
        Choice(text=text, log_likelihood=-chance.uniform(0, 50), num_tokens=chance.randint(1, 9))
        for text in chance.sample(["7", "8", "seven", "The answer"], chance.randint(1, 4))
    )
    return MetricItem(
        prompt=chance.choice(TEXTS),
        answer=answer,
        answer_ids=tuple(chance.randrange(20) for _ in range(chance.randint(0, 12))),
        references=chance.choice([("7",), ("7",), ("7", "8"), ()]),
        choices=choices,
        right_choice=chance.randrange(len(choices)),
    )


_ITEMS = st.lists(st.integers(0, 2**16).map(_item), min_size=1, max_size=5).map(tuple)


def _score(metric: Metric, items: Sequence[MetricItem]) -> Tensor:
    return require_scores(metric.score(MetricRequest(items=items)), len(items), torch.float64, "item")


@at_every_value
@contract_property
def check_one_finite_number_an_item(metric: Metric) -> None:
    """``score`` returns (B,) float64, all finite, whatever the answers and references are."""

    def body(items: tuple[MetricItem, ...]) -> None:
        _score(metric, items)

    for_all(_ITEMS, body)
    _score(metric, ())


@contract_property
def check_items_are_alone(metric: Metric) -> None:
    """An item's number is the same whatever other items there are, and in whatever order."""

    def body(items: tuple[MetricItem, ...]) -> None:
        require_alone(partial(_score, metric), items, "item")

    for_all(_ITEMS, body)


@contract_property
def check_hostile_answers(metric: Metric) -> None:
    """Answers of many thousand characters, deeply nested ones and towers of powers are taken like any other."""
    choice = Choice(text="7", log_likelihood=-1.0, num_tokens=1)
    _score(
        metric,
        tuple(
            MetricItem(answer=text, answer_ids=range(500), references=("7",), choices=(choice,)) for text in _HOSTILE
        ),
    )


@contract_property
def check_pure(metric: Metric) -> None:
    """Same answer every time, no random numbers."""
    items = tuple(_item(seed) for seed in range(20))
    require_same_again(partial(_score, metric), items)


@at_every_value
@contract_property
def check_claims(metric: Metric) -> None:
    """``needs`` is "generation" or "likelihood", and nothing else matters; ``higher_is_better`` is a bool."""
    if not isinstance(HIGHER_IS_BETTER.of(metric), bool):
        raise AssertionError(f"higher_is_better is {HIGHER_IS_BETTER.of(metric)!r}, neither True nor False")
    if NEEDS.of(metric) not in ("generation", "likelihood"):
        raise AssertionError(f"needs is {NEEDS.of(metric)!r}; it must be 'generation' or 'likelihood'")

    def body(items: tuple[MetricItem, ...]) -> None:
        require_equal(
            _score(
                metric, tuple(map(_without_answer if NEEDS.of(metric) == "likelihood" else _without_choices, items))
            ),
            _score(metric, items),
            f"needs is {NEEDS.of(metric)!r}, but something else changes the score",
        )

    for_all(_ITEMS, body)


def _without_answer(item: MetricItem) -> MetricItem:
    return MetricItem(prompt=item.prompt, choices=item.choices, right_choice=item.right_choice)


def _without_choices(item: MetricItem) -> MetricItem:
    return MetricItem(prompt=item.prompt, answer=item.answer, answer_ids=item.answer_ids, references=item.references)


PROPERTIES = (
    check_one_finite_number_an_item,
    check_items_are_alone,
    check_hostile_answers,
    check_pure,
    check_claims,
)
