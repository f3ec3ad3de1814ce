"""What the built-in rewards give, and that they ask the checks that the metrics of the same names ask."""

from typing import Any

import pytest

from dlm_builtin_plugins import answer_checks
from dlm_builtin_plugins.metrics.answers import ExactMatch, Number, Pattern
from dlm_builtin_plugins.rewards.form import EndsReward, LengthReward, PatternReward
from dlm_builtin_plugins.rewards.references import ExactReward, NumberReward
from dlm_plugins import MetricItem, MetricRequest, Reward, RewardItem, RewardRequest

ANSWERS = (
    "7",
    " 7. ",
    "**7**",
    "The answer is 7",
    "7.0",
    "14/2",
    "70e-1",
    "7**1",
    "8",
    "",
    "SEVEN",
    "7 or 8",
    "x7",
    "\0",
)


def scores(reward: Reward, *answers: str, **columns: Any) -> list[float]:
    items = [RewardItem(answer=answer, answer_ids=range(len(answer)), columns=columns) for answer in answers]
    return reward.score(RewardRequest(items=items)).tolist()


@pytest.mark.parametrize(
    ("reward", "metric"),
    [(ExactReward(), ExactMatch()), (NumberReward(), Number()), (PatternReward(pattern="7$"), Pattern(pattern="7$"))],
)
def test_a_reward_gives_what_the_metric_of_its_name_measures(reward: Any, metric: Any) -> None:
    for references in (["7"], ["8", "7"]):
        items = [MetricItem(answer=answer, references=references) for answer in ANSWERS]
        measured = metric.score(MetricRequest(items=items)).tolist()
        assert scores(reward, *ANSWERS, answer=references) == measured
        assert 0 < sum(measured) < len(ANSWERS)


def test_the_checks_are_one_function_for_both() -> None:
    for name in ("is_exact_match", "matches_pattern", "compiled", "has_number"):
        function = getattr(answer_checks, name)
        users = [method for cls in (ExactReward, NumberReward, PatternReward) for method in (cls.score,)]
        assert any(each.__globals__.get(name) is function for each in users)


def test_a_column_may_hold_one_answer_or_several_texts_or_numbers() -> None:
    assert scores(ExactReward(), "b", answer="b") == [1.0]
    assert scores(ExactReward(), "b", "c", answer=["a", "b"]) == [1.0, 0.0]
    assert scores(NumberReward(), "it is 0.5", answer=0.5) == [1.0]
    assert scores(NumberReward(column="solution"), "= 12", answer="3", solution="so we get 12") == [1.0]
    assert scores(ExactReward(), "12", answer=12) == [1.0]


@pytest.mark.parametrize(
    ("reward", "columns", "message"),
    [
        (ExactReward(), {"solution": "7", "level": 3}, "no column 'answer'; its columns are solution, level"),
        (NumberReward(column="x"), {}, "no column 'x'; its columns are none"),
        (
            ExactReward(),
            {"answer": None},
            "column 'answer' must hold a text or a number, or a list of them, not 'None'",
        ),
        (ExactReward(), {"answer": []}, "must hold a text or a number"),
        (ExactReward(), {"answer": [True]}, "must hold a text or a number"),
        (NumberReward(), {"answer": "seven"}, "no number to compare with in 'seven'"),
    ],
)
def test_a_row_that_cannot_be_judged_says_why(reward: Reward, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        scores(reward, "7", **columns)


def test_the_end_of_an_answer_is_what_ends_looks_at() -> None:
    items = [RewardItem(answer="7", ended=True), RewardItem(answer="7", ended=False)]
    assert EndsReward().score(RewardRequest(items=items)).tolist() == [1.0, 0.0]


def test_length_falls_in_a_straight_line() -> None:
    reward = LengthReward(target=2, limit=6)
    assert scores(reward, "", "ab", "abc", "abcd", "abcdef", "abcdefgh") == [1.0, 1.0, 0.75, 0.5, 0.0, 0.0]
    with pytest.raises(ValueError, match=r"limit \(2\) must be above target \(2\)"):
        LengthReward(target=2, limit=2)


def test_an_expression_that_cannot_be_read_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match=r"pattern '\(': missing \)"):
        PatternReward(pattern="(")
