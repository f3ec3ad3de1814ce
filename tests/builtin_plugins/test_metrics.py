"""Built-in metrics on items worked out by hand."""

from math import log

import pytest

from dlm_builtin_plugins.metrics.answers import Contains, ExactMatch, Number, Pattern
from dlm_builtin_plugins.metrics.diversity import DistinctN, Entropy
from dlm_builtin_plugins.metrics.likelihoods import Accuracy, Elbo
from dlm_plugins import Choice, Metric, MetricItem, MetricRequest


def scores(metric: Metric, *items: MetricItem) -> list[float]:
    return metric.score(MetricRequest(items=items)).tolist()


def item(answer: str, *references: str) -> MetricItem:
    return MetricItem(answer=answer, references=references)


CHOICES = (
    Choice(text="abcd", log_likelihood=-4.0, num_tokens=1),
    Choice(text="a", log_likelihood=-3.0, num_tokens=1),
    Choice(text="\u00e9", log_likelihood=-4.4, num_tokens=2),
)


def test_answers_are_compared_with_any_of_the_references() -> None:
    assert scores(ExactMatch(), item("Paris.", "Lyon", "paris"), item("Paris!", "Lyon"), item("", "x")) == [1, 0, 0]
    assert scores(Contains(), item("It is Paris.", "paris"), item("Parisian", "paris"), item("x")) == [1, 0, 0]
    assert scores(Number(), item("so 1/2", "0.5"), item("so 2", "3", "2.0"), item("none", "none")) == [1, 1, 0]
    assert scores(Pattern(), item("ab12", r"\d+"), item("ab", r"\d+"), item("ab", "(")) == [1, 0, 0]
    assert scores(Pattern(pattern="^a"), item("ab"), item("ba")) == [1, 0]
    with pytest.raises(ValueError, match="missing"):
        Pattern(pattern="(")


def test_likelihoods_are_compared_per_text_token_or_byte() -> None:
    items = [MetricItem(choices=CHOICES, right_choice=right) for right in range(3)]
    assert scores(Accuracy(), *items) == [0, 1, 0]
    assert scores(Accuracy(per="token"), *items) == [0, 0, 1]
    assert scores(Accuracy(per="byte"), *items) == [1, 0, 0]
    assert scores(Elbo(), *items) == pytest.approx([4, 3, 2.2])
    assert scores(Elbo(per="text"), items[0]) == [4]
    assert scores(Elbo(per="byte"), items[0], items[2]) == pytest.approx([1 / log(2), 2.2 / log(2)])
    assert scores(Accuracy(), MetricItem()) == scores(Elbo(), MetricItem()) == [0]


def test_diversity_counts_tokens() -> None:
    repeated, varied = MetricItem(answer_ids=(1, 1, 1, 1)), MetricItem(answer_ids=(1, 2, 3, 4))
    assert scores(DistinctN(), repeated, varied, MetricItem(answer_ids=(1,))) == pytest.approx([1 / 3, 1, 0])
    assert scores(DistinctN(n=1), repeated) == [0.25]
    assert scores(Entropy(), repeated, varied, MetricItem()) == pytest.approx([0, log(4), 0])
