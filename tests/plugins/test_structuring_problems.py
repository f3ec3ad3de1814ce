"""Suggestions and the walk over foreign errors."""

import dataclasses
from typing import TypedDict

import pytest
from cattrs.errors import BaseValidationError
from hypothesis import given, settings
from hypothesis import strategies as st

from dlm_plugins.problems import join_path, problems_of, reason_of, shown
from dlm_plugins.structuring import make_converter
from dlm_plugins.suggestions import closest


@dataclasses.dataclass
class Point:
    x: int
    y: int


class Line(TypedDict):
    points: list[Point]
    width: float


def test_errors_that_cattrs_raises_for_other_classes_are_understood() -> None:
    with pytest.raises(BaseValidationError) as raised:
        make_converter().structure({"points": [{"x": 1, "y": "2"}, {"x": 1, "z": 3}], "width": True}, Line)
    found = {problem.path: problem.message for problem in problems_of(raised.value, "a.line")}
    assert found == {
        "a.line.points[0].y": "must be an integer, not '2', which is text",
        "a.line.points[1].y": "required, but missing",
        "a.line.points[1].z": "unknown key",
        "a.line.width": "must be a number, not true",
    }


@pytest.mark.parametrize(
    ("word", "candidates", "expected"),
    [
        ("lerning_rate", ["learning_rate", "rate"], "learning_rate"),
        ("epochs", ["num_epochs", "max_steps"], "num_epochs"),
        ("lt", ["lr", "name"], "lr"),
        ("batch-size", ["batch_size", "steps"], "batch_size"),
        ("Seed", ["seed"], "seed"),
        ("wieght", ["height", "weight"], "weight"),
        ("zzzzz", ["lr", "name"], None),
        ("anything", [], None),
    ],
)
def test_the_closest_name_is_found(word: str, candidates: list[str], expected: str | None) -> None:
    assert closest(word, candidates) == expected


@given(st.text(max_size=30), st.lists(st.text(max_size=10), max_size=5))
@settings(deadline=None, max_examples=100)
def test_a_known_word_is_its_own_closest_and_others_get_a_candidate_or_nothing(word: str, names: list[str]) -> None:
    assert closest(word, names) in {*names, None}
    assert closest(word.lower(), [word.lower()]) == word.lower()


@given(st.text(), st.text())
def test_paths_and_values_fit_on_one_printable_line(parent: str, key: str) -> None:
    for line in (join_path("a", key), shown(key), reason_of(ValueError(parent + "\n" + key))):
        assert len(line.splitlines()) <= 1
        line.encode("utf-8")


def test_values_are_shown_in_the_words_of_yaml() -> None:
    assert [shown(value) for value in (None, True, [], [1], {}, {"a": 1}, 10**30)] == [
        "null",
        "true",
        "an empty list",
        "a list",
        "an empty mapping",
        "a mapping",
        "a huge integer",
    ]
    assert len(shown("x" * 1000)) < 80
