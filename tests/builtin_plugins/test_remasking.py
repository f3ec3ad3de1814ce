"""Remasking rules against plain loops over one row."""

import math
from collections.abc import Callable

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dlm_builtin_plugins.remasking.confidence_temperature import ConfidenceTemperature
from dlm_builtin_plugins.remasking.dynamic_threshold import DynamicThreshold
from dlm_builtin_plugins.remasking.entropy import LowEntropy
from dlm_builtin_plugins.remasking.factor import Factor
from dlm_builtin_plugins.remasking.low_confidence import LowConfidence
from dlm_builtin_plugins.remasking.margin import LargeMargin
from dlm_builtin_plugins.remasking.random import RandomOrder
from dlm_builtin_plugins.remasking.random_topk import RandomTopK
from dlm_builtin_plugins.remasking.remdm import ReMDM
from dlm_builtin_plugins.remasking.threshold import Threshold
from dlm_plugins import KeyedDraws, Remasker
from dlm_plugins.remasking import NEEDS_COMMITTED_PREDICTIONS, RESPECTS_QUOTA

MASK = 99


@attrs.frozen(kw_only=True, eq=False)
class State:
    """A decoding state with everything given."""

    confidence: Tensor
    masked: Tensor
    quota: Tensor
    candidates: Tensor
    committed_ids: Tensor
    committed_confidence: Tensor
    committed_step: Tensor
    entropy: Tensor
    margin: Tensor
    draws: KeyedDraws
    step: int = 0
    num_steps: int = 4

    @property
    def log_probability(self) -> Tensor:
        return self.confidence.log()


def state(
    confidence: list[list[float]], masked: list[list[bool]] | None = None, quota: int | list[int] = 1, **others: object
) -> State:
    confidences = torch.tensor(confidence)
    is_masked = torch.ones_like(confidences, dtype=torch.bool) if masked is None else torch.tensor(masked)
    num_rows, length = confidences.shape
    given_values = {
        "confidence": confidences.masked_fill(~is_masked, -torch.inf),
        "masked": is_masked,
        "quota": torch.tensor(quota if isinstance(quota, list) else [quota] * num_rows),
        "candidates": torch.arange(length).expand(num_rows, length),
        "committed_ids": torch.where(is_masked, MASK, torch.arange(length).expand(num_rows, length)),
        "committed_confidence": torch.where(is_masked, 0.0, confidences),
        "committed_step": torch.where(is_masked, -1, 0),
        "entropy": 1 - confidences,
        "margin": confidences,
        "draws": KeyedDraws(seed=0, step=0, rows=torch.arange(num_rows), length=length),
    }
    return State(**{**given_values, **others})


ROWS = st.integers(1, 9).flatmap(
    lambda length: st.lists(
        st.tuples(
            st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.7, 0.9, 0.95, 1.0]), min_size=length, max_size=length),
            st.lists(st.booleans(), min_size=length, max_size=length),
            st.integers(0, length + 2),
        ),
        min_size=1,
        max_size=4,
    )
)


def decide(remasker: Remasker, rows: list[tuple[list[float], list[bool], int]], **others: object) -> list[list[bool]]:
    given_state = state([row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows], **others)
    decision = remasker.decide(given_state)
    assert decision.commit.dtype == torch.bool
    return decision.commit.tolist()


def top(score: list[float], masked: list[bool], count: int) -> list[bool]:
    """The published loop: sort the masked positions of one row, keep the first ``count``."""
    order = sorted((place for place, is_masked in enumerate(masked) if is_masked), key=lambda place: -score[place])
    return [place in order[:count] for place in range(len(score))]


@pytest.mark.parametrize("remasker", [LowConfidence(), LowEntropy(), LargeMargin()], ids=repr)
@settings(deadline=None, max_examples=60)
@given(rows=ROWS)
def test_sorted_rules_keep_the_best_and_break_ties_by_position(remasker, rows):
    assert decide(remasker, rows) == [top(*row) for row in rows]


QUOTA_RULES = [
    LowConfidence(),
    RandomOrder(),
    RandomTopK(),
    RandomTopK(temperature=0),
    RandomTopK(temperature=50),
    ConfidenceTemperature(),
    ConfidenceTemperature(temperature=0),
    LowEntropy(),
    LargeMargin(),
]


@pytest.mark.parametrize("remasker", QUOTA_RULES, ids=repr)
@settings(deadline=None, max_examples=40)
@given(rows=ROWS)
def test_quota_rules_commit_exactly_the_quota_or_what_is_left(remasker, rows):
    assert RESPECTS_QUOTA.of(remasker)
    for commit, (_, masked, quota) in zip(decide(remasker, rows), rows, strict=True):
        assert sum(commit) == min(quota, sum(masked))
        assert all(is_masked for chosen, is_masked in zip(commit, masked, strict=True) if chosen)


def test_masked_positions_without_any_confidence_are_still_committed():
    """A penalty may push a confidence to minus infinity: the quota holds, and nothing committed is overwritten."""
    confidence = torch.tensor([[-torch.inf, -torch.inf, -torch.inf]])
    given_state = attrs.evolve(state([[0.5, 0.5, 0.5]], [[False, True, True]]), confidence=confidence)
    assert LowConfidence().decide(given_state).commit.tolist() == [[False, True, False]]


@pytest.mark.parametrize("remasker", [RandomTopK(temperature=0), ConfidenceTemperature(temperature=0)], ids=repr)
def test_temperature_zero_is_low_confidence(remasker):
    rows = [([0.3, 0.9, 0.2, 0.8, 0.5], [True, True, True, False, True], 2)]
    assert decide(remasker, rows) == decide(LowConfidence(), rows)


@attrs.frozen
class SmallestDraws:
    """Draws that are all zero, whose plain Gumbel noise would be minus infinity."""

    shape: tuple[int, int]

    def per_row(self, purpose: str) -> Tensor:
        return torch.zeros(self.shape[0])

    def per_position(self, purpose: str) -> Tensor:
        return torch.zeros(self.shape)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_smallest_draw_gives_finite_noise(temperature):
    given_state = state([[0.2, 0.9, 0.5]], draws=SmallestDraws((1, 3)))
    for remasker in (RandomTopK(temperature=temperature), ConfidenceTemperature(temperature=temperature)):
        assert remasker.decide(given_state).commit.tolist() == [[False, True, False]]


def first_choices(remasker: Remasker, confidence: list[float], num_rows: int = 40_000) -> Tensor:
    """How often each position is the one that is committed."""
    return remasker.decide(state([confidence] * num_rows, quota=1)).commit.double().mean(dim=0)


@pytest.mark.parametrize(
    ("remasker", "law"),
    [
        (RandomOrder(), lambda c: 1.0),
        (RandomTopK(), lambda c: c),
        (RandomTopK(temperature=2), math.sqrt),
        (ConfidenceTemperature(temperature=0.5), lambda c: math.exp(c / 0.5)),
    ],
    ids=["random", "random_topk", "random_topk at 2", "confidence_temperature"],
)
def test_random_rules_choose_with_the_stated_probabilities(remasker: Remasker, law: Callable[[float], float]):
    confidence = [0.9, 0.6, 0.2, 0.05]
    weights = torch.tensor([law(c) for c in confidence], dtype=torch.float64)
    expected = weights / weights.sum()
    z = (first_choices(remasker, confidence) - expected) / (expected * (1 - expected) / 40_000).sqrt()
    assert z.abs().max() < 5


def test_a_row_decides_alone():
    rows = [([0.3, 0.9, 0.2, 0.8], [True, True, True, True], 2), ([0.5] * 4, [False, True, True, True], 1)]
    for remasker in (*QUOTA_RULES, Threshold(), Threshold(fallback="quota"), DynamicThreshold(), Factor(), ReMDM()):
        assert decide(remasker, rows)[:1] == decide(remasker, rows[:1])


@settings(deadline=None, max_examples=60)
@given(rows=ROWS, threshold=st.sampled_from([0.0, 0.25, 0.6, 0.9, 1.0]))
def test_threshold_keeps_all_above_it_and_at_least_the_best(rows, threshold):
    for commit, (confidence, masked, _) in zip(decide(Threshold(threshold=threshold), rows), rows, strict=True):
        above = [is_masked and c > threshold for c, is_masked in zip(confidence, masked, strict=True)]
        assert commit == (above if any(above) else top(confidence, masked, 1))
        if threshold == 1:
            assert sum(commit) == min(1, sum(masked))


def sdar_dynamic(confidence: list[float], masked: list[bool], quota: int, threshold: float) -> list[bool]:
    """SDAR's published rule: those above the bar if they are as many as the quota, else the quota's best."""
    above = [is_masked and c > threshold for c, is_masked in zip(confidence, masked, strict=True)]
    return above if sum(above) >= quota else top(confidence, masked, quota)


@settings(deadline=None, max_examples=60)
@given(rows=ROWS, threshold=st.sampled_from([0.0, 0.25, 0.6, 0.9, 1.0]))
def test_threshold_falls_back_on_the_quota_as_sdar_does(rows, threshold):
    rows = [(confidence, masked, max(quota, 1)) for confidence, masked, quota in rows]
    remasker = Threshold(threshold=threshold, fallback="quota")
    assert decide(remasker, rows) == [sdar_dynamic(*row, threshold) for row in rows]


def test_a_quota_of_nothing_still_lets_the_best_one_through():
    rows = [([0.3, 0.5, 0.2], [True, True, True], 0)]
    assert decide(Threshold(fallback="quota"), rows) == [[False, True, False]]


@pytest.mark.parametrize(("start", "end"), [(0.9, 0.3), (0.2, 0.8)])
def test_dynamic_threshold_moves_from_start_to_end(start, end):
    confidence = [0.03 + 0.1 * place for place in range(10)]
    for num_steps in (1, 5):
        for step in range(num_steps):
            bar = start if num_steps == 1 else start + (end - start) * step / (num_steps - 1)
            given_state = state([confidence], step=step, num_steps=num_steps)
            commit = DynamicThreshold(start=start, end=end).decide(given_state).commit
            assert int(commit.sum()) == sum(c > bar for c in confidence)


@settings(deadline=None, max_examples=80)
@given(rows=ROWS, factor=st.sampled_from([0.05, 0.3, 1.0, 2.5]))
def test_factor_keeps_the_largest_safe_number(rows, factor):
    for commit, (confidence, masked, _) in zip(decide(Factor(factor=factor), rows), rows, strict=True):
        falling = sorted((c for c, is_masked in zip(confidence, masked, strict=True) if is_masked), reverse=True)
        float32 = torch.tensor(falling)
        safe = [n for n in range(1, len(falling) + 1) if float((n + 1) * (1 - float32[n - 1])) < factor]
        assert commit == top(confidence, masked, max(safe, default=1))


def test_factor_counts_one_more_than_it_keeps():
    both, third = [True, True], [True, True, True]
    rows = [([0.66, 0.66], both, 1), ([0.68, 0.68], both, 1), ([0.74] * 3, third, 1), ([0.76] * 3, third, 1)]
    assert [sum(commit) for commit in decide(Factor(), rows[:2])] == [1, 2]  # 3 x 0.34 and 3 x 0.32, below 1 or not
    assert [sum(commit) for commit in decide(Factor(), rows[2:])] == [2, 3]  # 4 x 0.26 and 4 x 0.24


@pytest.mark.parametrize("remasker", [Threshold(), DynamicThreshold(), Factor(), ReMDM()], ids=repr)
def test_rules_without_quota_say_so(remasker):
    assert not RESPECTS_QUOTA.of(remasker)


def test_remdm_takes_back_what_was_doubtful_and_commits_as_many_more():
    num_rows = 20_000
    given_state = state(
        [[0.9, 0.1, 0.5, 0.4, 0.3, 0.2]] * num_rows, [[False, False, False, True, True, True]] * num_rows, quota=1
    )
    decision = ReMDM(rate=0.2).decide(given_state)
    assert not (decision.remask & given_state.masked).any()
    assert not (decision.commit & ~given_state.masked).any()
    expected_commits = (1 + decision.remask.sum(dim=1)).clamp(max=3)
    assert torch.equal(decision.commit.sum(dim=1), expected_commits)
    weights = torch.tensor([math.exp(-c) for c in (0.9, 0.1, 0.5)], dtype=torch.float64)
    expected = 3 * 0.2 * weights / weights.sum()
    z = (decision.remask[:, :3].double().mean(dim=0) - expected) / (expected * (1 - expected) / num_rows).sqrt()
    assert z.abs().max() < 5


def test_remdm_never_takes_back_what_was_given():
    given_state = state(
        [[0.9, 0.1, 0.5, 0.4]] * 500,
        [[False, False, True, True]] * 500,
        committed_step=torch.tensor([[-1, 0, -1, -1]] * 500),
    )
    remask = ReMDM(rate=1).decide(given_state).remask
    assert remask[:, 1].any()
    assert not remask[:, [0, 2, 3]].any()


def test_remdm_takes_nothing_back_when_no_step_is_left():
    given_state = state([[0.9, 0.1, 0.5, 0.4]] * 100, [[False, False, True, True]] * 100, quota=2)
    assert not ReMDM(rate=1).decide(given_state).remask.any()


def test_remdm_reconsiders_tokens_the_model_no_longer_wants():
    rows = 2000
    others = {
        "confidence": torch.tensor([[0.9, 0.9, 0.5, 0.5, 0.5]] * rows),
        "candidates": torch.tensor([[0, 7, 2, 3, 4]] * rows),  # position 1 holds 1, and the model now says 7
    }
    masked = [[False, False, True, True, True]] * rows
    decision = ReMDM(rate=0.3, reconsider=True).decide(attrs.evolve(state([[0.9] * 5] * rows, masked), **others))
    taken_back = decision.remask.double().mean(dim=0)
    weights = torch.tensor([math.exp(-0.9), math.exp(0)], dtype=torch.float64)
    expected = 2 * 0.3 * weights / weights.sum()
    z = (taken_back[:2] - expected) / (expected * (1 - expected) / rows).sqrt()
    assert z.abs().max() < 5
    assert NEEDS_COMMITTED_PREDICTIONS.of(ReMDM(reconsider=True))
    assert not NEEDS_COMMITTED_PREDICTIONS.of(ReMDM())


def test_remdm_finishes_a_block_within_the_steps_planned():
    """A loop like the core's, with the quota of a fixed plan."""
    num_rows, length, num_steps = 64, 12, 6
    masked = torch.ones(num_rows, length, dtype=torch.bool)
    committed_step = torch.full((num_rows, length), -1)
    num_taken_back = 0
    for step in range(num_steps - 1):
        given_state = state(
            [[0.5] * length] * num_rows,
            masked.tolist(),
            quota=length // num_steps,
            committed_step=committed_step,
            draws=KeyedDraws(seed=1, step=step, rows=torch.arange(num_rows), length=length),
        )
        decision = ReMDM(rate=0.3).decide(given_state)
        masked = masked & ~decision.commit | decision.remask
        committed_step = torch.where(decision.commit, step, committed_step).masked_fill(masked, -1)
        num_taken_back += int(decision.remask.sum())
        assert (masked.sum(dim=1) >= length - (step + 1) * length // num_steps).all()
    assert num_taken_back > 100
    left_for_the_last_step = masked.sum(dim=1).double()
    assert left_for_the_last_step.mean() < 2 * length / num_steps
