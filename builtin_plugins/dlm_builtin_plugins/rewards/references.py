"""Rewards that compare an answer with a column of the data set: exact match, last number as a fraction (no eval)."""

from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor

from dlm_builtin_plugins.answer_checks import has_number, is_exact_match
from dlm_builtin_plugins.rewards.columns import values_in
from dlm_plugins import RewardItem, RewardRequest


def _column_option(help: str) -> Any:
    return attrs.field(default="answer", validator=attrs.validators.min_len(1), metadata={"help": help})


def _compared(request: RewardRequest, column: str, is_right: Callable[[str, str], bool]) -> Tensor:
    """(B,) float32: 1 where the answer is right by one of the references of its row, else 0."""
    right = [any(is_right(item.answer, each) for each in _references(item, column)) for item in request.items]
    return torch.tensor(right, dtype=torch.float32)


def _references(item: RewardItem, column: str) -> list[str]:
    """What the row accepts.

    Raises:
        ValueError: there is no such column, or it holds something else.
    """
    values = values_in(item, column)
    if not values or not all(isinstance(value, str | int | float) and not isinstance(value, bool) for value in values):
        cell = item.columns[column]
        raise ValueError(f"column {column!r} must hold a text or a number, or a list of them, not {str(cell)[:40]!r}")
    return [str(value) for value in values]


@attrs.frozen(kw_only=True)
class ExactReward:
    """1 for an answer that equals the text of a column, or one of its texts, once both are normalised; else 0.

    Normalised: compatible forms of characters made one, case folded, white space collapsed, outer punctuation removed.
    The metric ``exact_match`` asks the same.
    """

    column: str = _column_option("Column with the right answer, or with a list of right ones.")

    @property
    def columns(self) -> dict[str, Any]:
        """The one column that is read."""
        return {self.column: "7"}

    def score(self, request: RewardRequest) -> Tensor:
        """Compare whole answers."""
        return _compared(request, self.column, is_exact_match)


@attrs.frozen(kw_only=True)
class NumberReward:
    """1 for an answer that ends with the number of a column, or with one of its numbers, as fractions; else 0.

    0.5, 1/2 and 50e-2 are one number. Nothing is calculated: an answer that ends with ``2**10`` ends with no number.
    The column may hold whole solutions, whose last number counts. The metric ``number`` asks the same.
    """

    column: str = _column_option("Column with the right number, or with a list of right ones.")

    @property
    def columns(self) -> dict[str, Any]:
        """The one column that is read."""
        return {self.column: "7"}

    def score(self, request: RewardRequest) -> Tensor:
        """Compare last numbers."""
        return _compared(request, self.column, has_number)
