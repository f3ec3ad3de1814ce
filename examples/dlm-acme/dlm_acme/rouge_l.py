"""ROUGE-L."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import attrs
import torch
from torch import Tensor

from dlm_plugins import MetricRequest


@attrs.frozen(kw_only=True)
class RougeL:
    """F-measure of the longest common subsequence of words, the best over the references (ROUGE-L).

    Lin 2004, "ROUGE: A package for automatic evaluation of summaries".
    """

    needs: ClassVar[Literal["generation"]] = "generation"

    most_words: int = attrs.field(
        default=400,
        validator=attrs.validators.ge(1),
        metadata={"help": "Words of each text that are looked at, at least 1: time grows with their product."},
    )

    def score(self, request: MetricRequest) -> Tensor:
        """In [0, 1] for each item; 0 without references."""
        values = [
            max((self._f_measure(item.answer, each) for each in item.references), default=0.0) for item in request.items
        ]
        return torch.tensor(values, dtype=torch.float64)

    def _f_measure(self, answer: str, reference: str) -> float:
        words, wanted = (text.casefold().split()[: self.most_words] for text in (answer, reference))
        common = _common(words, wanted)
        return 2 * common / (len(words) + len(wanted)) if common else 0.0


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(other) + 1)
    for word in one:
        diagonal = 0
        for index, wanted in enumerate(other, start=1):
            above = row[index]
            row[index] = diagonal + 1 if word == wanted else max(above, row[index - 1])
            diagonal = above
    return row[-1]
