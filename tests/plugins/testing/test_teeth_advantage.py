"""Wrong advantages are caught by the property they break."""

from collections.abc import Callable
from typing import Any, ClassVar

import attrs
import pytest
import torch
from torch import Tensor

from dlm_plugins import AdvantageRequest
from dlm_plugins.testing import check_component


@attrs.frozen(kw_only=True)
class Sound:
    """Reward minus the mean of the group."""

    def advantage(self, request: AdvantageRequest) -> Tensor:
        """(B,), exactly 0 where all are equal."""
        return self.excess(request).flatten()

    def excess(self, request: AdvantageRequest) -> Tensor:
        """(P, G)."""
        is_even = (request.rewards == request.rewards[:, :1]).all(dim=1, keepdim=True)
        return (request.rewards - request.rewards.mean(dim=1, keepdim=True)).masked_fill(is_even, 0.0)


@attrs.frozen(kw_only=True)
class Valued(Sound):
    """Reward minus what was expected, at each position."""

    needs_values: ClassVar[bool] = True

    def advantage(self, request: AdvantageRequest) -> Tensor:
        """(B, L)."""
        assert request.values is not None
        assert request.committed_step is not None
        return (request.rewards.flatten()[:, None] - request.values).masked_fill(request.committed_step < 0, 0.0)


@attrs.frozen(kw_only=True)
class Grouped(Sound):
    """(P, G) instead of (B,)."""

    def advantage(self, request: AdvantageRequest) -> Tensor:
        """As it comes."""
        return self.excess(request)


@attrs.frozen(kw_only=True)
class Everywhere(Valued):
    """Has advantages in the prompt too."""

    def advantage(self, request: AdvantageRequest) -> Tensor:
        """(B, L)."""
        assert request.values is not None
        return request.rewards.flatten()[:, None] - request.values


@attrs.frozen(kw_only=True)
class DividesByNothing(Sound):
    """Divides by a spread that may be 0."""

    def advantage(self, request: AdvantageRequest) -> Tensor:
        """(B,)."""
        spread = request.rewards.std(dim=1, keepdim=True, correction=0)
        return (self.excess(request) / spread).flatten()


@attrs.frozen(kw_only=True)
class OverTheBatch(Sound):
    """Compares with the mean of all prompts."""

    def advantage(self, request: AdvantageRequest) -> Tensor:
        """(B,)."""
        rewards = request.rewards
        if (rewards == rewards[:, :1]).all():
            return torch.zeros_like(rewards).flatten()
        return (self.excess(request) / rewards.std(correction=0)).flatten()


@attrs.frozen(kw_only=True)
class FirstIsTheBaseline(Sound):
    """Compares with the first answer, and gives that one the mean of the rest."""

    def advantage(self, request: AdvantageRequest) -> Tensor:
        """(B,)."""
        return (request.rewards - request.rewards[:, :1]).flatten()


@attrs.frozen(kw_only=True)
class NoBaseline(Sound):
    """The reward as it is."""

    def advantage(self, request: AdvantageRequest) -> Tensor:
        """(B,)."""
        return request.rewards.flatten()


@attrs.frozen(kw_only=True)
class InPlace(Sound):
    """Changes the rewards it is handed."""

    def advantage(self, request: AdvantageRequest) -> Tensor:
        """(B,)."""
        found = super().advantage(request)
        request.rewards.add_(1.0)
        return found


@attrs.frozen(kw_only=True)
class OnTheCpu(Sound):
    """Mixes devices."""

    def advantage(self, request: AdvantageRequest) -> Tensor:
        """(B,)."""
        return super().advantage(request) + torch.zeros(request.rewards.numel())


@attrs.frozen(kw_only=True)
class Peeks(Sound):
    """Reads values that it does not claim."""

    def advantage(self, request: AdvantageRequest) -> Tensor:
        """(B,)."""
        found = super().advantage(request)
        return found if request.values is None else found + request.values.sum(dim=1)


@attrs.frozen(kw_only=True)
class TheOtherWayRound(Sound):
    """Mean minus reward."""

    def advantage(self, request: AdvantageRequest) -> Tensor:
        """(B,)."""
        return -super().advantage(request)


@attrs.frozen(kw_only=True)
class ValuedTheOtherWayRound(Valued):
    """What was expected, minus the reward."""

    def advantage(self, request: AdvantageRequest) -> Tensor:
        """(B, L)."""
        return -super().advantage(request)


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        (Grouped, "finite_numbers"),
        (Everywhere, "finite_numbers"),
        (DividesByNothing, "finite_numbers"),
        (OverTheBatch, "prompts_are_alone"),
        (FirstIsTheBaseline, "order_of_answers"),
        (NoBaseline, "equal_rewards"),
        (TheOtherWayRound, "better_is_better"),
        (ValuedTheOtherWayRound, "better_is_better"),
        (InPlace, "pure"),
        (OnTheCpu, "pure"),
        (Peeks, "claims"),
    ],
)
def test_wrong_advantage_is_caught(refute: Callable[[str, type, str], str], cls: type[Any], name: str) -> None:
    refute("advantage", cls, name)


@pytest.mark.parametrize("cls", [Sound, Valued])
def test_sound_advantage_passes(cls: type[Any]) -> None:
    assert check_component("advantage", cls) == []
