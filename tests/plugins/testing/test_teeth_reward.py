"""Wrong rewards are caught by the property they break."""

import re
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

from dlm_plugins import KINDS, RewardRequest
from dlm_plugins.testing import check_component
from dlm_plugins.validation import component_problems


@attrs.frozen(kw_only=True)
class Sound:
    """Length of the answer."""

    def score(self, request: RewardRequest) -> Tensor:
        """Characters."""
        return torch.tensor([float(len(item.answer)) for item in request.items])


@attrs.frozen(kw_only=True)
class Double(Sound):
    """In double precision."""

    def score(self, request: RewardRequest) -> Tensor:
        """Characters."""
        return super().score(request).double()


@attrs.frozen(kw_only=True)
class NotFinite(Sound):
    """A logarithm of nothing."""

    def score(self, request: RewardRequest) -> Tensor:
        """Its logarithm."""
        return super().score(request).log()


@attrs.frozen(kw_only=True)
class Undecided(Sound):
    """Not a number for answers that were cut off."""

    def score(self, request: RewardRequest) -> Tensor:
        """NaN where there is no end."""
        ended = torch.tensor([item.ended for item in request.items], dtype=torch.bool)
        return super().score(request).where(ended, torch.nan)


@attrs.frozen(kw_only=True)
class Relative(Sound):
    """Compares answers with each other."""

    def score(self, request: RewardRequest) -> Tensor:
        """Above the shortest."""
        lengths = super().score(request)
        return lengths - (lengths.min() if len(lengths) else 0.0)


@attrs.frozen(kw_only=True)
class FirstOnly(Sound):
    """Gives every further answer less, so that the order matters."""

    def score(self, request: RewardRequest) -> Tensor:
        """Characters, over the place."""
        return super().score(request) / torch.arange(1, len(request.items) + 1)


@attrs.frozen(kw_only=True)
class Evaluates(Sound):
    """Trusts what the model wrote."""

    def score(self, request: RewardRequest) -> Tensor:
        """Counts by a recursion as deep as the answer nests."""

        def depth(text: str) -> int:
            return 1 + depth(text[1:]) if text.startswith("(") else 0

        return torch.tensor([float(depth(item.answer)) for item in request.items])


@attrs.frozen(kw_only=True)
class Slow(Sound):
    """Searches by an expression whose time grows with the square of the answer."""

    def score(self, request: RewardRequest) -> Tensor:
        """Whether there is a number before an end that never comes."""
        return torch.tensor([float(re.search(r"\d+!", item.answer[:10_000]) is not None) for item in request.items])


@attrs.frozen(kw_only=True)
class StopsAtNothing(Sound):
    """Looks at the first word of an answer that may have none."""

    def score(self, request: RewardRequest) -> Tensor:
        """Characters of the first word."""
        return torch.tensor([float(len(item.answer.split()[0])) for item in request.items])


@attrs.frozen(kw_only=True)
class Noisy(Sound):
    """Adds noise of its own."""

    def score(self, request: RewardRequest) -> Tensor:
        """Noise."""
        return super().score(request) + torch.rand(1) * 0


@attrs.frozen(kw_only=True)
class Hidden(Sound):
    """Reads a column that it does not name."""

    def score(self, request: RewardRequest) -> Tensor:
        """Whatever the row holds."""
        return torch.tensor([float(len(item.columns)) for item in request.items])


@attrs.frozen(kw_only=True)
class Weighted(Sound):
    """Has an option that is the core's."""

    weight: float = attrs.field(default=1.0, metadata={"help": "How much it counts."})


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        (Double, "one_finite_number_an_answer"),
        (NotFinite, "one_finite_number_an_answer"),
        (Undecided, "one_finite_number_an_answer"),
        (StopsAtNothing, "one_finite_number_an_answer"),
        (Relative, "answers_are_alone"),
        (FirstOnly, "answers_are_alone"),
        (Evaluates, "hostile_answers"),
        (Noisy, "pure"),
        (Hidden, "columns"),
    ],
)
def test_wrong_reward_is_caught(refute: Callable[[str, type, str], str], cls: type[Any], name: str) -> None:
    refute("reward", cls, name)


def test_a_reward_that_takes_too_long_is_caught(
    refute: Callable[[str, type, str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlm_plugins.testing.reward_properties.SECONDS", 0.1)
    assert "s for 7 answers" in refute("reward", Slow, "hostile_answers")


def test_sound_reward_passes() -> None:
    assert check_component("reward", Sound) == []


def test_the_weight_is_the_cores() -> None:
    (problem,) = component_problems(KINDS["reward"], Weighted)
    assert problem == "option 'weight' is reserved: the run file uses this key itself; call it something else"
