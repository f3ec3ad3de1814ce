"""Metrics of written answers against references: exact match, contains, number, pattern."""

from collections.abc import Callable
from typing import ClassVar, Literal

import attrs
import torch
from torch import Tensor

from dlm_builtin_plugins.answer_checks import contains, is_exact_match, last_number, matches_pattern
from dlm_plugins import MetricItem, MetricRequest


def _shares(request: MetricRequest, is_right: Callable[[MetricItem], bool]) -> Tensor:
    return torch.tensor([float(is_right(item)) for item in request.items], dtype=torch.float64)


@attrs.frozen(kw_only=True)
class ExactMatch:
    """1 where the answer is one of the references, once case, white space and outer punctuation are normalised."""

    needs: ClassVar[Literal["generation"]] = "generation"

    def score(self, request: MetricRequest) -> Tensor:
        """1 or 0 for each item."""
        return _shares(request, lambda item: any(is_exact_match(item.answer, each) for each in item.references))


@attrs.frozen(kw_only=True)
class Contains:
    """1 where one of the references stands in the answer, as whole words."""

    needs: ClassVar[Literal["generation"]] = "generation"

    def score(self, request: MetricRequest) -> Tensor:
        """1 or 0 for each item."""
        return _shares(request, lambda item: any(contains(item.answer, each) for each in item.references))


@attrs.frozen(kw_only=True)
class Number:
    """1 where the number that the answer ends with equals that of a reference, as fractions; nothing is calculated.

    A reference that ends with no number is right for no answer.
    """

    needs: ClassVar[Literal["generation"]] = "generation"

    def score(self, request: MetricRequest) -> Tensor:
        """1 or 0 for each item."""

        def is_right(item: MetricItem) -> bool:
            found = last_number(item.answer)
            return found is not None and found in [last_number(each) for each in item.references]

        return _shares(request, is_right)


def _check_pattern(component: object, option: object, pattern: str) -> None:
    matches_pattern("", pattern)


@attrs.frozen(kw_only=True)
class Pattern:
    """1 where a regular expression matches somewhere in the answer: the option's, or else one of the references.

    Expressions are RE2's: no back-references, no look-around, and no answer that takes long. A reference that is no
    expression is right for no answer.
    """

    needs: ClassVar[Literal["generation"]] = "generation"

    pattern: str | None = attrs.field(
        default=None,
        validator=attrs.validators.optional(_check_pattern),
        metadata={"help": "Expression for all items; null: each item's references are expressions."},
    )

    def score(self, request: MetricRequest) -> Tensor:
        """1 or 0 for each item."""
        return _shares(request, lambda item: any(_matches(item.answer, each) for each in self._patterns(item)))

    def _patterns(self, item: MetricItem) -> tuple[str, ...]:
        return tuple(item.references) if self.pattern is None else (self.pattern,)


def _matches(answer: str, pattern: str) -> bool:
    try:
        return matches_pattern(answer, pattern)
    except ValueError:
        return False
