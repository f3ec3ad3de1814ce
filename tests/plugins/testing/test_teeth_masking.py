"""Wrong maskings are caught by the property they break."""

from collections.abc import Callable
from typing import ClassVar

import attrs
import pytest
import torch
from torch import Tensor

from dlm_plugins import MaskingRequest, Selection
from dlm_plugins.testing import check_component


def selection(request: MaskingRequest, corrupted: Tensor, p_mask: Tensor) -> Selection:
    eligible = request.eligible
    return Selection(corrupted=corrupted & eligible, p_mask=torch.where(eligible, p_mask, 0.0).float())


@attrs.frozen(kw_only=True)
class Independent:
    """One coin a position: what the wrong ones vary."""

    is_independent: ClassVar[bool] = True

    def select(self, request: MaskingRequest) -> Selection:
        return selection(request, request.draws.per_position("coin") < request.p, request.p)


@attrs.frozen(kw_only=True)
class WholeWords:
    """One coin a word: sound, and not independent."""

    def select(self, request: MaskingRequest) -> Selection:
        coins = request.draws.per_position("word").gather(1, request.spans.clamp_min(0))
        # The rate of a word is that of its first position.
        same = request.spans[:, :, None] == request.spans[:, None, :]
        rate = request.p.gather(1, same.int().argmax(-1))
        return selection(request, coins < rate, rate)


@attrs.frozen(kw_only=True)
class CountsOnSteps(Independent):
    """Reads a trace that is not always there, and does not say so."""

    def select(self, request: MaskingRequest) -> Selection:
        assert request.committed_step is not None
        return selection(request, request.draws.per_position("coin") < request.p, request.p)


@attrs.frozen(kw_only=True)
class TenPercentOff(Independent):
    """p_mask is 10 % too low."""

    is_independent: ClassVar[bool] = False

    def select(self, request: MaskingRequest) -> Selection:
        return selection(request, request.draws.per_position("coin") < request.p, request.p * 0.9)


@attrs.frozen(kw_only=True)
class TenPercentOffSpans:
    """Whole words whose p_mask is 10 % too high, where it is not 1."""

    def select(self, request: MaskingRequest) -> Selection:
        sound = WholeWords().select(request)
        p = sound.p_mask
        return Selection(corrupted=sound.corrupted, p_mask=torch.where(p < 1, (p * 1.1).clamp(max=0.999), p))


@attrs.frozen(kw_only=True)
class HindsightProbability(Independent):
    """p_mask is 1 where the coin fell on it: every frequency is right, every weight wrong."""

    is_independent: ClassVar[bool] = False

    def select(self, request: MaskingRequest) -> Selection:
        corrupted = request.draws.per_position("coin") < request.p
        return selection(request, corrupted, corrupted.float())


@attrs.frozen(kw_only=True)
class ForgetsEligible(Independent):
    """Corrupts the prompt and the padding too."""

    def select(self, request: MaskingRequest) -> Selection:
        corrupted = request.draws.per_position("coin") < request.p
        return Selection(corrupted=corrupted, p_mask=request.p.masked_fill(~request.eligible, 0))


@attrs.frozen(kw_only=True)
class ProbabilityOutside(Independent):
    """p_mask is p on padding too."""

    def select(self, request: MaskingRequest) -> Selection:
        return attrs.evolve(Independent().select(request), p_mask=request.p)


@attrs.frozen(kw_only=True)
class ForcesOne(Independent):
    """Corrupts the first eligible position whatever its probability."""

    def select(self, request: MaskingRequest) -> Selection:
        first = request.eligible & (request.eligible.cumsum(1) == 1)
        return selection(request, first | (request.draws.per_position("coin") < request.p), request.p)


@attrs.frozen(kw_only=True)
class ExactCountOfBatch(Independent):
    """The same number of positions in the whole batch: rows depend on each other."""

    def select(self, request: MaskingRequest) -> Selection:
        score = request.draws.per_position("coin")
        threshold = score.flatten().quantile(request.p.mean().clamp(0, 1))
        return selection(request, score < threshold, request.p)


@attrs.frozen(kw_only=True)
class CentredOnPadding:
    """Corrupts all or nothing, by a coin whose threshold shifts with the padded length."""

    def select(self, request: MaskingRequest) -> Selection:
        length = request.p.shape[1]
        coin = (request.draws.per_row("coin") + 1 / length) % 1
        return selection(request, coin[:, None] < request.p, request.p)


@attrs.frozen(kw_only=True)
class GlobalGenerator(Independent):
    """Draws from torch's global generator."""

    def select(self, request: MaskingRequest) -> Selection:
        return selection(request, torch.rand(request.p.shape) < request.p, request.p)


@attrs.frozen(kw_only=True)
class PairsCalledIndependent(WholeWords):
    """Whole words, claimed to be independent."""

    is_independent: ClassVar[bool] = True


@attrs.frozen(kw_only=True)
class OneView(Independent):
    """Claims two views, and gives the same one twice."""

    num_views: ClassVar[int] = 2


@attrs.frozen(kw_only=True)
class IgnoresRate(Independent):
    """Half of the positions, whatever p is; its p_mask is right."""

    is_independent: ClassVar[bool] = False

    def select(self, request: MaskingRequest) -> Selection:
        half = torch.full_like(request.p, 0.5)
        return selection(request, request.draws.per_position("coin") < half, half)


@attrs.frozen(kw_only=True)
class FloatMask(Independent):
    """Returns numbers for truth values."""

    def select(self, request: MaskingRequest) -> Selection:
        sound = Independent().select(request)
        return attrs.evolve(sound, corrupted=sound.corrupted.float())


@attrs.frozen(kw_only=True)
class CertainOfNothing(Independent):
    """Corrupts nothing, and says that it always does."""

    def select(self, request: MaskingRequest) -> Selection:
        return selection(request, torch.zeros_like(request.eligible), torch.ones_like(request.p))


WRONG = [
    (TenPercentOff, "frequency_matches_p_mask"),
    (TenPercentOff, "inverse_weights_have_mean_one"),
    (TenPercentOffSpans, "frequency_matches_p_mask"),
    (HindsightProbability, "inverse_weights_have_mean_one"),
    (ForgetsEligible, "nothing_outside_eligible"),
    (ProbabilityOutside, "nothing_outside_eligible"),
    (ForcesOne, "p_mask_is_probability"),
    (CertainOfNothing, "p_mask_is_probability"),
    (ForcesOne, "frequency_matches_p_mask"),
    (ExactCountOfBatch, "row_independent_of_batch"),
    (CentredOnPadding, "row_independent_of_batch"),
    (GlobalGenerator, "pure"),
    (GlobalGenerator, "row_independent_of_batch"),
    (PairsCalledIndependent, "independence_claim"),
    (OneView, "views_differ"),
    (IgnoresRate, "rate_follows_p"),
    (FloatMask, "shapes"),
    (CountsOnSteps, "shapes"),
]


@pytest.mark.parametrize(("cls", "name"), WRONG, ids=lambda value: getattr(value, "__name__", value))
def test_wrong_masking_is_caught(refute: Callable[[str, type, str], str], cls: type, name: str) -> None:
    refute("masking", cls, name)


@attrs.frozen(kw_only=True)
class Complementary:
    """Two views, the second of which corrupts what the first has left: sound."""

    num_views: ClassVar[int] = 2

    def select(self, request: MaskingRequest) -> Selection:
        first = (request.view_index == 0)[:, None]
        taken = request.draws.per_position("coin") < request.p
        return selection(request, taken == first, torch.where(first, request.p, 1 - request.p))


@pytest.mark.parametrize("cls", [Independent, WholeWords, Complementary])
def test_sound_masking_passes(cls: type) -> None:
    assert check_component("masking", cls) == []


def test_message_holds_the_smallest_failing_case(refute: Callable[[str, type, str], str]) -> None:
    message = refute("masking", ProbabilityOutside, "nothing_outside_eligible")
    assert "\n  smallest failing case:\n    eligible: [[False]]\n    p: [[" in message


def test_message_says_where_a_certain_position_is_not_corrupted(refute: Callable[[str, type, str], str]) -> None:
    message = refute("masking", CertainOfNothing, "p_mask_is_probability")
    assert ": p_mask is 1 at position 0 of row 0, but it is not corrupted\n" in message


def test_wrong_masking_fails_by_its_properties_only() -> None:
    names = [message.partition(":")[0] for message in check_component("masking", TenPercentOff)]
    assert names == ["frequency_matches_p_mask", "inverse_weights_have_mean_one"]


@attrs.frozen(kw_only=True)
class ByStep:
    """A view for each step of a rollout: sound."""

    follows_rate: ClassVar[bool] = False
    needs_trace: ClassVar[bool] = True

    def views_of(self, request: MaskingRequest) -> Tensor:
        return steps_of(request).amax(1) + 1

    def select(self, request: MaskingRequest) -> Selection:
        step, now = steps_of(request), request.view_index[:, None]
        chance = 1 / (step.amax(1, keepdim=True) + 1)
        p_mask = torch.where(step >= 0, chance, 0.0)
        return Selection(corrupted=step >= now, p_mask=p_mask, scored=(step == now) & (step >= 0))


def steps_of(request: MaskingRequest) -> Tensor:
    assert request.committed_step is not None
    steps = torch.where(request.eligible, request.committed_step, -1)
    return torch.where((steps >= 0).any(1, keepdim=True), steps, torch.where(request.eligible, 0, -1))


@attrs.frozen(kw_only=True)
class ForgetsViews(ByStep):
    """p_mask is 1, though a position is scored in one view of several."""

    def select(self, request: MaskingRequest) -> Selection:
        sound = ByStep().select(request)
        return attrs.evolve(sound, p_mask=sound.p_mask.ceil())


@attrs.frozen(kw_only=True)
class ScoresWhatIsSeen(ByStep):
    """Scores earlier steps, which the model sees."""

    def select(self, request: MaskingRequest) -> Selection:
        step, now = steps_of(request), request.view_index[:, None]
        return attrs.evolve(ByStep().select(request), corrupted=step > now)


@attrs.frozen(kw_only=True)
class ScoresContext(ByStep):
    """Hides part of the prompt, and scores it."""

    def select(self, request: MaskingRequest) -> Selection:
        assert request.context is not None
        sound = ByStep().select(request)
        return attrs.evolve(sound, corrupted=sound.corrupted | request.context, scored=request.context)


@attrs.frozen(kw_only=True)
class HidesPadding(ByStep):
    """Hides what is neither eligible nor context."""

    def select(self, request: MaskingRequest) -> Selection:
        sound = ByStep().select(request)
        return attrs.evolve(sound, corrupted=sound.corrupted | (request.document_id < 0))


@attrs.frozen(kw_only=True)
class NoView(ByStep):
    """Wants no view of a row of which nothing was written."""

    def views_of(self, request: MaskingRequest) -> Tensor:
        return steps_of(request).amax(1)


@attrs.frozen(kw_only=True)
class ViewsOfTheBatch(ByStep):
    """As many views as the longest row of the batch."""

    def views_of(self, request: MaskingRequest) -> Tensor:
        return (steps_of(request).amax() + 1).expand_as(request.view_index).clamp(min=1)


WRONG_VIEWS = [
    (ForgetsViews, "frequency_matches_p_mask"),
    (ForgetsViews, "inverse_weights_have_mean_one"),
    (ScoresWhatIsSeen, "nothing_outside_eligible"),
    (ScoresContext, "nothing_outside_eligible"),
    (HidesPadding, "nothing_outside_eligible"),
    (NoView, "number_of_views"),
    (ViewsOfTheBatch, "number_of_views"),
]


@pytest.mark.parametrize(("cls", "name"), WRONG_VIEWS, ids=lambda value: getattr(value, "__name__", value))
def test_wrong_views_are_caught(refute: Callable[[str, type, str], str], cls: type, name: str) -> None:
    refute("masking", cls, name)
