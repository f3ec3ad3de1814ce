"""Metrics of how varied written answers are: distinct n-grams, entropy of their tokens."""

from collections import Counter
from collections.abc import Sequence
from math import log
from typing import ClassVar, Literal

import attrs
import torch
from torch import Tensor

from dlm_plugins import MetricRequest


@attrs.frozen(kw_only=True)
class DistinctN:
    """Share of an answer's n-grams of tokens that are different (distinct-n); 0 for an answer shorter than n.

    Li et al. 2016, arXiv:1510.03055.
    """

    needs: ClassVar[Literal["generation"]] = "generation"

    n: int = attrs.field(default=2, validator=attrs.validators.ge(1), metadata={"help": "Tokens of an n-gram."})

    def score(self, request: MetricRequest) -> Tensor:
        """In [0, 1] for each item."""
        return torch.tensor([self._share(item.answer_ids) for item in request.items], dtype=torch.float64)

    def _share(self, ids: Sequence[int]) -> float:
        grams = [tuple(ids[start : start + self.n]) for start in range(len(ids) - self.n + 1)]
        return len(set(grams)) / len(grams) if grams else 0.0


@attrs.frozen(kw_only=True)
class Entropy:
    """Entropy of the tokens of an answer, in nats: 0 where it repeats one, log n where all n differ."""

    needs: ClassVar[Literal["generation"]] = "generation"

    def score(self, request: MetricRequest) -> Tensor:
        """At least 0 for each item."""
        return torch.tensor([_entropy(item.answer_ids) for item in request.items], dtype=torch.float64)


def _entropy(ids: Sequence[int]) -> float:
    return sum(count / len(ids) * log(len(ids) / count) for count in Counter(ids).values())
