"""Wrong remaskers are caught by the property they break."""

from collections.abc import Callable
from typing import ClassVar

import attrs
import pytest
import torch
from torch import Tensor

from dlm_plugins import Decision, DecodingState
from dlm_plugins.testing import check_component


def best(score: Tensor, among: Tensor, count: Tensor) -> Tensor:
    order = score.double().masked_fill(~among, -torch.inf).argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(dim=1)
    return among & (rank < count[:, None])


def generated(state: DecodingState) -> Tensor:
    return ~state.masked & (state.committed_step >= 0)


@attrs.frozen(kw_only=True)
class Confident:
    """The quota's most confident: sound."""

    def decide(self, state: DecodingState) -> Decision:
        return Decision(commit=best(state.confidence, state.masked, state.quota))


@attrs.frozen(kw_only=True)
class Threshold:
    """Everything above a threshold, at least one: sound."""

    respects_quota: ClassVar[bool] = False

    def decide(self, state: DecodingState) -> Decision:
        first = best(state.confidence, state.masked, torch.ones_like(state.quota))
        return Decision(commit=first | (state.masked & (state.confidence > 0.6)))


@attrs.frozen(kw_only=True)
class TakesBack:
    """Remasks what it believes least by now: sound."""

    respects_quota: ClassVar[bool] = False
    needs_committed_predictions: ClassVar[bool] = True
    takes_back: ClassVar[bool] = True

    def decide(self, state: DecodingState) -> Decision:
        commit = best(state.confidence, state.masked, state.quota)
        return Decision(commit=commit, remask=generated(state) & (state.confidence < 0.4))


@attrs.frozen(kw_only=True)
class TakesBackInSilence(TakesBack):
    """Does not say that it takes back."""

    takes_back: ClassVar[bool] = False


@attrs.frozen(kw_only=True)
class ConfidentCalledRandom(Confident):
    """Denies that its order follows the model."""

    follows_predictions: ClassVar[bool] = False


@attrs.frozen(kw_only=True)
class ThresholdCalledQuota(Threshold):
    """Claims to respect its quota, and does not."""

    respects_quota: ClassVar[bool] = True


@attrs.frozen(kw_only=True)
class TakesBackWithinQuota(TakesBack):
    """Commits the quota, but takes positions back."""

    respects_quota: ClassVar[bool] = True


@attrs.frozen(kw_only=True)
class ForgetsMasked:
    """The most confident positions, masked or not."""

    def decide(self, state: DecodingState) -> Decision:
        return Decision(commit=best(state.confidence, torch.ones_like(state.masked), state.quota))


@attrs.frozen(kw_only=True)
class RemasksPrompt(TakesBack):
    """Takes given positions back too."""

    def decide(self, state: DecodingState) -> Decision:
        commit = best(state.confidence, state.masked, state.quota)
        return Decision(commit=commit, remask=~state.masked & (state.confidence < 0.4))


@attrs.frozen(kw_only=True)
class Hesitates(Threshold):
    """May commit nothing at all."""

    def decide(self, state: DecodingState) -> Decision:
        return Decision(commit=state.masked & (state.confidence > 0.6))


@attrs.frozen(kw_only=True)
class SharesQuota(Threshold):
    """Ranks the positions of all rows together."""

    def decide(self, state: DecodingState) -> Decision:
        cut = state.confidence[state.masked].median() if state.masked.any() else 0.0
        return Decision(commit=state.masked & (state.confidence >= cut) | Threshold().decide(state).commit)


@attrs.frozen(kw_only=True)
class GlobalGenerator:
    """Ranks by torch's global generator."""

    def decide(self, state: DecodingState) -> Decision:
        return Decision(commit=best(torch.rand(state.masked.shape), state.masked, state.quota))


@attrs.frozen(kw_only=True)
class PeeksAtCommitted(Threshold):
    """Uses predictions that the core does not make."""

    def decide(self, state: DecodingState) -> Decision:
        commit = Threshold().decide(state).commit
        return Decision(commit=commit, remask=generated(state) & (state.entropy > 1))


@attrs.frozen(kw_only=True)
class BreaksTies(Threshold):
    """Compares by value: equal confidences are all taken, or none."""

    respects_quota: ClassVar[bool] = True

    def decide(self, state: DecodingState) -> Decision:
        ordered = state.confidence.masked_fill(~state.masked, -torch.inf).sort(dim=1, descending=True).values
        cut = ordered.gather(1, (state.quota[:, None] - 1).clamp_min(0))
        return Decision(commit=state.masked & (state.confidence >= cut) & (state.quota > 0)[:, None])


@attrs.frozen(kw_only=True)
class Positions:
    """Returns positions instead of a mask."""

    def decide(self, state: DecodingState) -> Decision:
        return Decision(commit=state.confidence.argsort(dim=1))


@attrs.frozen(kw_only=True)
class InPlace(Confident):
    """Writes into the committed ids."""

    def decide(self, state: DecodingState) -> Decision:
        commit = Confident().decide(state).commit
        state.committed_ids[commit] = state.candidates[commit]
        return Decision(commit=commit)


@attrs.frozen(kw_only=True)
class OnTheCpu(Confident):
    """Prefers what is further left, counted on another device."""

    def decide(self, state: DecodingState) -> Decision:
        place = torch.arange(state.masked.shape[1]) / state.masked.shape[1]
        return Decision(commit=best(state.confidence - place, state.masked, state.quota))


@attrs.frozen(kw_only=True)
class DoublePrecision(Confident):
    """Puts confidences into a table of another precision."""

    def decide(self, state: DecodingState) -> Decision:
        table = torch.zeros(state.masked.shape, dtype=torch.float64)
        table[state.masked] = state.confidence[state.masked]
        return Decision(commit=best(table, state.masked, state.quota))


WRONG = [
    (OnTheCpu, "device_kept"),
    (DoublePrecision, "shapes"),
    (ThresholdCalledQuota, "respects_quota_claim"),
    (TakesBackWithinQuota, "respects_quota_claim"),
    (TakesBackInSilence, "takes_back_claim"),
    (ConfidentCalledRandom, "follows_predictions_claim"),
    (BreaksTies, "respects_quota_claim"),
    (ForgetsMasked, "commits_masked_only"),
    (RemasksPrompt, "remasks_generated_only"),
    (Hesitates, "progress"),
    (SharesQuota, "row_independent_of_batch"),
    (GlobalGenerator, "pure"),
    (PeeksAtCommitted, "ignores_unpredicted"),
    (Positions, "shapes"),
    (InPlace, "pure"),
]


@pytest.mark.parametrize(("cls", "name"), WRONG, ids=lambda value: getattr(value, "__name__", value))
def test_wrong_remasker_is_caught(refute: Callable[[str, type, str], str], cls: type, name: str) -> None:
    refute("remasking", cls, name)


@pytest.mark.parametrize("cls", [Confident, Threshold, TakesBack])
def test_sound_remasker_passes(cls: type) -> None:
    assert check_component("remasking", cls) == []


def test_wrong_remasker_fails_by_its_property_only() -> None:
    (message,) = check_component("remasking", ThresholdCalledQuota)
    assert "commits another number of positions" in message
