"""Wrong losses are caught by the property they break."""

import math
import re
from collections.abc import Callable
from typing import ClassVar

import attrs
import pytest
import torch
from torch import Tensor

from dlm_plugins import LossOutput, LossView
from dlm_plugins.testing import check_component


def real(view: LossView) -> Tensor:
    return view.document_id >= 0


def share(view: LossView) -> Tensor:
    """What a position counts: itself, or its part of its answer, in each view of its row the same part of that."""
    length = view.answer_length
    return (torch.ones_like(view.t) if length is None else 1 / length.clamp_min(1)) / view.num_views


def output(view: LossView, weight: Tensor) -> LossOutput:
    where = view.scored & view.eligible
    total = view.weighted_cross_entropy(where, weight * share(view))
    return LossOutput(total, torch.where(view.eligible, share(view), 0.0).sum())


@attrs.frozen(kw_only=True)
class Weighted:
    """Cross-entropy by 1 / p: what the wrong ones vary."""

    def __call__(self, view: LossView) -> LossOutput:
        return output(view, view.weight)


@attrs.frozen(kw_only=True)
class Bound:
    """Cross-entropy by p'(t) / p(t): sound."""

    def __call__(self, view: LossView) -> LossOutput:
        return output(view, view.rate_derivative / view.rate)


@attrs.frozen(kw_only=True)
class Focal:
    """(1 - q)^2 by 1 / p, and says that it weighs on purpose: sound."""

    is_likelihood_weighted: ClassVar[bool] = False

    def __call__(self, view: LossView) -> LossOutput:
        where = view.scored & view.eligible
        log_q = view.log_probabilities(where)
        terms = (1 - log_q.exp()) ** 2 * -log_q * (view.weight * share(view))[where]
        return LossOutput(terms.sum(), torch.where(view.eligible, share(view), 0.0).sum())


@attrs.frozen(kw_only=True)
class FocalWithoutSaying(Focal):
    """Claims to be a likelihood."""

    is_likelihood_weighted: ClassVar[bool] = True


@attrs.frozen(kw_only=True)
class ForgetsRate:
    """No 1 / p."""

    def __call__(self, view: LossView) -> LossOutput:
        return output(view, torch.ones_like(view.weight))


@attrs.frozen(kw_only=True)
class TimeForRate:
    """1 / t, right for p = t only."""

    def __call__(self, view: LossView) -> LossOutput:
        return output(view, 1 / view.t.clamp_min(1e-3))


@attrs.frozen(kw_only=True)
class CountsCorrupted:
    """Divides by the number of corrupted positions, and weighs by 1 / p as well."""

    def __call__(self, view: LossView) -> LossOutput:
        return attrs.evolve(Weighted()(view), normaliser=(view.corrupted & view.eligible).sum())


@attrs.frozen(kw_only=True)
class LinearRamp:
    """Later positions weigh more, the mean being 1."""

    def __call__(self, view: LossView) -> LossOutput:
        length = view.t.shape[1]
        ramp = 1 + 0.2 * (torch.arange(length) - (length - 1) / 2) / length
        return output(view, view.weight * ramp)


@attrs.frozen(kw_only=True)
class ScoresContext:
    """Scores all that is corrupted."""

    def __call__(self, view: LossView) -> LossOutput:
        total = view.weighted_cross_entropy(view.corrupted, view.weight * share(view))
        return attrs.evolve(Weighted()(view), total=total)


@attrs.frozen(kw_only=True)
class CountsViews:
    """A row with more views counts more."""

    def __call__(self, view: LossView) -> LossOutput:
        return LossOutput(view.weighted_cross_entropy(view.scored, view.weight), view.eligible.sum())


@attrs.frozen(kw_only=True)
class CountsPadding:
    """Divides by the rectangle of the batch."""

    def __call__(self, view: LossView) -> LossOutput:
        return attrs.evolve(Weighted()(view), normaliser=torch.tensor(view.t.numel()))


@attrs.frozen(kw_only=True)
class MeanOfBatch:
    """Divides by itself and calls the batch one."""

    def __call__(self, view: LossView) -> LossOutput:
        summed = Weighted()(view)
        return LossOutput(summed.total / summed.normaliser.clamp_min(1), torch.tensor(1))


@attrs.frozen(kw_only=True)
class Unconnected:
    """A constant where nothing is corrupted."""

    def __call__(self, view: LossView) -> LossOutput:
        if not view.corrupted.any():
            return LossOutput(torch.tensor(0.0), torch.tensor(0))
        return Weighted()(view)


@attrs.frozen(kw_only=True)
class NotANumberWhenEmpty:
    """A mean of nothing."""

    def __call__(self, view: LossView) -> LossOutput:
        log_q = view.log_probabilities(view.corrupted)
        return LossOutput(-log_q.mean() * len(log_q), view.eligible.sum())


@attrs.frozen(kw_only=True)
class ScoresPrompt:
    """Scores clean positions of the prompt too."""

    def __call__(self, view: LossView) -> LossOutput:
        return LossOutput(view.weighted_cross_entropy(real(view), torch.ones_like(view.t)), real(view).sum())


@attrs.frozen(kw_only=True)
class Ascends:
    """The sign is wrong."""

    def __call__(self, view: LossView) -> LossOutput:
        summed = Weighted()(view)
        return attrs.evolve(summed, total=-summed.total)


@attrs.frozen(kw_only=True)
class FirstRowMatters:
    """Weighs all rows by the rate of the first one."""

    def __call__(self, view: LossView) -> LossOutput:
        return output(view, view.weight[:1].expand_as(view.weight))


@attrs.frozen(kw_only=True)
class Overflows:
    """Divides by the probability itself."""

    is_likelihood_weighted: ClassVar[bool] = False

    def __call__(self, view: LossView) -> LossOutput:
        where = view.corrupted & view.eligible
        return LossOutput((1 / view.log_probabilities(where).exp()).sum(), view.eligible.sum())


@attrs.frozen(kw_only=True)
class NaiveFocal:
    """(1 - q)^gamma as textbooks write it: its slope at q = 1 is infinite for gamma in (0, 1), and 0 times that NaN."""

    is_likelihood_weighted: ClassVar[bool] = False
    gamma: float = attrs.field(default=2.0, validator=attrs.validators.ge(0), metadata={"help": "At least 0."})

    def __call__(self, view: LossView) -> LossOutput:
        where = view.scored & view.eligible
        log_q = view.log_probabilities(where)
        terms = (1 - log_q.exp()) ** self.gamma * -log_q * (view.weight * share(view))[where]
        return LossOutput(terms.sum(), torch.where(view.eligible, share(view), 0.0).sum())


@attrs.frozen(kw_only=True)
class NaiveFocalFromZero(NaiveFocal):
    """The same, starting where it is harmless."""

    gamma: float = attrs.field(default=0.0, validator=attrs.validators.ge(0), metadata={"help": "At least 0."})


@attrs.frozen(kw_only=True)
class NaiveFocalAmongOthers(NaiveFocal):
    """The same with an odd default, no bounds, and behind many other options."""

    first: float = attrs.field(default=0.3, metadata={"help": "Without effect."})
    second: int = attrs.field(default=7, metadata={"help": "Without effect."})
    third: bool = attrs.field(default=False, metadata={"help": "Without effect."})
    gamma: float = attrs.field(default=4.7, metadata={"help": "Any number."})


@attrs.frozen(kw_only=True)
class PlainNumber:
    """A total that is no tensor."""

    def __call__(self, view: LossView) -> LossOutput:
        return attrs.evolve(Weighted()(view), total=0.5)


@attrs.frozen(kw_only=True)
class PlainTensor:
    """A total without its normaliser."""

    def __call__(self, view: LossView) -> LossOutput:
        return Weighted()(view).total  # type: ignore[return-value]  # the mistake


@attrs.frozen(kw_only=True)
class HalfPrecision:
    """float16 total."""

    def __call__(self, view: LossView) -> LossOutput:
        summed = Weighted()(view)
        return attrs.evolve(summed, total=summed.total.half())


WRONG = [
    (ForgetsRate, "mean_over_masks"),
    (TimeForRate, "mean_over_masks"),
    (CountsCorrupted, "mean_over_masks"),
    (FocalWithoutSaying, "mean_over_masks"),
    (LinearRamp, "positions_weigh_alike"),
    (ScoresContext, "context_does_not_count"),
    (CountsViews, "views_share"),
    (CountsPadding, "padding"),
    (MeanOfBatch, "adds_up"),
    (FirstRowMatters, "row_order"),
    (FirstRowMatters, "adds_up"),
    (Unconnected, "nothing_scored"),
    (NotANumberWhenEmpty, "scalars"),
    (ScoresPrompt, "scores_eligible_only"),
    (Ascends, "favours_clean_ids"),
    (Overflows, "finite_at_extremes"),
    (NaiveFocal, "finite_at_extremes"),
    (NaiveFocalFromZero, "finite_at_extremes"),
    (NaiveFocalAmongOthers, "finite_at_extremes"),
    (HalfPrecision, "scalars"),
]


@pytest.mark.parametrize(("cls", "name"), WRONG, ids=lambda value: getattr(value, "__name__", value))
def test_wrong_loss_is_caught(refute: Callable[[str, type, str], str], cls: type, name: str) -> None:
    refute("loss", cls, name)


@pytest.mark.parametrize("cls", [Weighted, Bound, Focal])
def test_sound_loss_passes(cls: type) -> None:
    assert check_component("loss", cls) == []


def test_wrong_loss_fails_by_its_property_only() -> None:
    (message,) = check_component("loss", ForgetsRate)
    assert f"instead of ln 7 = {math.log(7):.4f}" in message


def test_naive_focal_loss_fails_by_its_gradient_only() -> None:
    (message,) = check_component("loss", NaiveFocal)
    assert re.match(r"finite_at_extremes: NaiveFocal\(gamma=0\.\d+\): the gradient is (nan|-?inf) at position", message)
    assert ", not finite, with the logits of the case times 100 (total " in message
    assert "\n  smallest failing case:\n    clean_ids: [[" in message


@pytest.mark.parametrize("name", ["scalars", "adds_up", "padding", "mean_over_masks", "positions_weigh_alike", "pure"])
@pytest.mark.parametrize(
    ("cls", "reason"),
    [
        (PlainNumber, "the loss, as total, returned a float, not a Tensor"),
        (PlainTensor, "the loss returned a Tensor, not a LossOutput"),
    ],
)
def test_every_property_says_first_that_the_type_is_wrong(
    refute: Callable[[str, type, str], str], cls: type, reason: str, name: str
) -> None:
    assert reason in refute("loss", cls, name)
