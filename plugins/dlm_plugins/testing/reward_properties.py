"""Contract tests of rewards: finite numbers, each from its answer alone; empty, huge, hostile answers; purity."""

import random
import time
from collections.abc import Sequence
from functools import partial

import attrs
import torch
from hypothesis import strategies as st
from torch import Tensor

from dlm_plugins.reward import COLUMNS, Reward, RewardItem, RewardRequest
from dlm_plugins.testing.property_tools import (
    at_every_value,
    contract_property,
    for_all,
    require_equal,
)
from dlm_plugins.testing.scores import TEXTS, require_alone, require_same_again, require_scores

_HOSTILE = ("", "(" * 10_000, "9**" * 3_000 + "9", "1" * 100_000, " a" * 100_000, "\\frac{" * 2_000, "a" * 10**6)
SECONDS = 20.0
"""Processor time that all hostile answers together may take: a second each is generous."""


def _item(reward: Reward, seed: int) -> RewardItem:
    """An answer to a row that has the columns the reward reads, and one that nobody reads."""
    chance = random.Random(seed)
    return RewardItem(
        prompt=chance.choice(TEXTS),
        answer=chance.choice(TEXTS),
        answer_ids=tuple(chance.randrange(20) for _ in range(chance.randint(0, 12))),
        ended=chance.random() < 0.5,
        columns={**COLUMNS.of(reward), "nobody_reads_this": chance.random()},
    )


def _items(reward: Reward) -> st.SearchStrategy[tuple[RewardItem, ...]]:
    return st.lists(st.integers(0, 2**16).map(lambda seed: _item(reward, seed)), min_size=1, max_size=5).map(tuple)


def _score(reward: Reward, items: Sequence[RewardItem]) -> Tensor:
    return require_scores(reward.score(RewardRequest(items=items)), len(items), torch.float32, "answer")


@at_every_value
@contract_property
def check_one_finite_number_an_answer(reward: Reward) -> None:
    """``score`` returns (B,) float32, all finite, whatever the answers are; (0,) for no answers."""

    def body(items: tuple[RewardItem, ...]) -> None:
        _score(reward, items)

    for_all(_items(reward), body, max_examples=5)
    columns = dict(COLUMNS.of(reward))
    _score(reward, [RewardItem(answer=text, ended=k % 2 == 0, columns=columns) for k, text in enumerate(TEXTS)])
    _score(reward, ())


@contract_property
def check_answers_are_alone(reward: Reward) -> None:
    """An answer's score is the same whatever other answers there are, and in whatever order."""

    def body(items: tuple[RewardItem, ...]) -> None:
        require_alone(partial(_score, reward), items, "answer")

    for_all(_items(reward), body, max_examples=5)


@contract_property
def check_hostile_answers(reward: Reward) -> None:
    """Empty answers, a million characters, deep nesting and towers of powers are judged like any other, and soon."""
    items = [
        RewardItem(answer=text, answer_ids=range(len(text)), columns=dict(COLUMNS.of(reward))) for text in _HOSTILE
    ]
    before = time.process_time()
    _score(reward, items)
    taken = time.process_time() - before
    if taken > SECONDS:
        raise AssertionError(f"took {taken:.0f} s for {len(items)} answers, the longest of a million characters")


@contract_property
def check_pure(reward: Reward) -> None:
    """Same score every time, no random numbers."""
    items = tuple(_item(reward, seed) for seed in range(20))
    require_same_again(partial(_score, reward), items)


@at_every_value
@contract_property
def check_columns(reward: Reward) -> None:
    """No column matters but those that ``columns`` names; each is named by text."""
    named = COLUMNS.of(reward)
    if not all(isinstance(name, str) for name in named):
        raise AssertionError(f"columns is {named!r}; it maps the name of each column to an example of its content")

    def body(items: tuple[RewardItem, ...]) -> None:
        bare = [attrs.evolve(item, columns=dict(named)) for item in items]
        require_equal(_score(reward, items), _score(reward, bare), "a column that it does not name changes the score")

    for_all(_items(reward), body, max_examples=5)


PROPERTIES = (
    check_one_finite_number_an_answer,
    check_answers_are_alone,
    check_hostile_answers,
    check_pure,
    check_columns,
)
