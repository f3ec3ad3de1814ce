"""Wrong metrics are caught by the property they break."""

from collections.abc import Callable
from typing import Any, ClassVar

import attrs
import pytest
import torch
from torch import Tensor

from dlm_plugins import MetricRequest
from dlm_plugins.testing import check_component


@attrs.frozen(kw_only=True)
class Sound:
    """Length of the answer."""

    def score(self, request: MetricRequest) -> Tensor:
        """Characters."""
        return torch.tensor([len(item.answer) for item in request.items], dtype=torch.float64)


@attrs.frozen(kw_only=True)
class Single(Sound):
    """One number for all items."""

    def score(self, request: MetricRequest) -> Tensor:
        """Their mean."""
        return super().score(request).sum(dim=0, keepdim=True)


@attrs.frozen(kw_only=True)
class NotFinite(Sound):
    """A logarithm of nothing."""

    def score(self, request: MetricRequest) -> Tensor:
        """Its logarithm."""
        return super().score(request).log()


@attrs.frozen(kw_only=True)
class Relative(Sound):
    """Compares items with each other."""

    def score(self, request: MetricRequest) -> Tensor:
        """Above the mean of the items."""
        lengths = super().score(request)
        return lengths - (lengths.mean() if len(lengths) else 0.0)


@attrs.frozen(kw_only=True)
class CountsOnReferences(Sound):
    """Compares with the best reference, of which there may be none."""

    def score(self, request: MetricRequest) -> Tensor:
        """1 where it is in the answer."""
        found = [max(each in item.answer for each in item.references) for item in request.items]
        return torch.tensor(found, dtype=torch.float64)


@attrs.frozen(kw_only=True)
class Evaluates(Sound):
    """Trusts what the model wrote."""

    def score(self, request: MetricRequest) -> Tensor:
        """Refuses long answers by an error."""
        if any(len(item.answer) > 1000 for item in request.items):
            raise RecursionError("too deep")
        return super().score(request)


@attrs.frozen(kw_only=True)
class Random(Sound):
    """Adds noise of its own."""

    def score(self, request: MetricRequest) -> Tensor:
        """Noise."""
        return super().score(request) + torch.rand(1, dtype=torch.float64) * 0


@attrs.frozen(kw_only=True)
class WrongNeed(Sound):
    """Says that it needs likelihoods, and reads answers."""

    needs: ClassVar[str] = "likelihood"


@attrs.frozen(kw_only=True)
class UnknownNeed(Sound):
    """Needs what nobody has."""

    needs: ClassVar[str] = "taste"


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        (Single, "one_finite_number_an_item"),
        (NotFinite, "one_finite_number_an_item"),
        (CountsOnReferences, "one_finite_number_an_item"),
        (Relative, "items_are_alone"),
        (Evaluates, "hostile_answers"),
        (Random, "pure"),
        (WrongNeed, "claims"),
        (UnknownNeed, "claims"),
    ],
)
def test_wrong_metric_is_caught(refute: Callable[[str, type, str], str], cls: type[Any], name: str) -> None:
    refute("metric", cls, name)


def test_sound_metric_passes() -> None:
    assert check_component("metric", Sound) == []
