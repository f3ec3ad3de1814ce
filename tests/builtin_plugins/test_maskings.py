"""Maskings: exact enumeration of the spans, and frequencies judged by their standard error."""

from math import sqrt

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dlm_builtin_plugins.maskings.bernoulli import BernoulliMasking
from dlm_builtin_plugins.maskings.contiguous import ContiguousMasking
from dlm_plugins import Draws, KeyedDraws, MaskingRequest, Selection
from dlm_plugins.masking import IS_INDEPENDENT


@attrs.frozen(kw_only=True)
class GivenStart:
    """Draws whose number for a row is prescribed."""

    row: Tensor

    def per_row(self, purpose: str) -> Tensor:
        return self.row

    def per_position(self, purpose: str) -> Tensor:
        raise AssertionError("one span needs one number")


def request(eligible: Tensor, p: Tensor, draws: Draws) -> MaskingRequest:
    return MaskingRequest(
        eligible=eligible,
        p=p,
        spans=torch.zeros_like(eligible, dtype=torch.int64),
        document_id=torch.zeros_like(eligible, dtype=torch.int64),
        block_length=4,
        view_index=torch.zeros(eligible.shape[0], dtype=torch.int64),
        draws=draws,
    )


def keyed(num_rows: int, length: int, seed: int = 0) -> KeyedDraws:
    return KeyedDraws(seed=seed, step=0, rows=torch.arange(num_rows), length=length)


def all_starts(eligible: Tensor, p: float) -> tuple[int, Selection]:
    """The selections of every possible start, one a row, and the length of the span."""
    num_eligible = int(eligible.sum())
    span_length = 0 if p == 0 else max(1, round(p * (num_eligible - 1) / (1 - p)))
    num_starts = num_eligible + span_length - 1
    rows = eligible.expand(num_starts, -1)
    draws = GivenStart(row=(torch.arange(num_starts) + 0.5) / num_starts)
    return span_length, ContiguousMasking().select(request(rows, torch.full(rows.shape, p), draws))


PATTERNS = st.lists(st.booleans(), min_size=2, max_size=24).filter(lambda pattern: sum(pattern) >= 2)


@settings(deadline=None, max_examples=100)
@given(pattern=PATTERNS, p=st.sampled_from([0.001, 0.03, 0.1, 0.22, 0.31, 0.47, 0.63, 0.78, 0.9, 0.97]))
def test_every_position_is_hit_by_exactly_k_of_the_starts(pattern, p):
    eligible = torch.tensor(pattern)
    span_length, selection = all_starts(eligible, p)
    hits = selection.corrupted.sum(dim=0)
    assert (hits[eligible] == span_length).all()
    assert (hits[~eligible] == 0).all()
    expected = torch.where(eligible, span_length / selection.corrupted.shape[0], 0.0)
    torch.testing.assert_close(selection.p_mask, expected.expand_as(selection.p_mask))


@settings(deadline=None, max_examples=100)
@given(pattern=PATTERNS, p=st.sampled_from([0.05, 0.3, 0.5, 0.8]))
def test_the_span_is_one_run_of_at_most_k_neighbours_among_the_eligible(pattern, p):
    eligible = torch.tensor(pattern)
    span_length, selection = all_starts(eligible, p)
    for row in selection.corrupted[:, eligible].int():
        changes = (torch.cat((torch.zeros(1, dtype=torch.int32), row)).diff() == 1).sum()
        assert changes == 1
        assert 1 <= row.sum() <= span_length


def test_contiguous_rate_is_the_nearest_that_a_whole_span_can_have():
    eligible = torch.ones(1, 100, dtype=torch.bool)
    for p in (0.01, 0.1, 0.35, 0.5, 0.9, 0.99):
        p_mask = float(
            ContiguousMasking().select(request(eligible, torch.full((1, 100), p), keyed(1, 100))).p_mask[0, 0]
        )
        neighbours = [k / (100 + k - 1) for k in range(1, 20_000)]
        assert abs(p_mask - p) <= min(abs(rate - p) for rate in neighbours) * 1.05 + 1e-6


@pytest.mark.parametrize("num_eligible", [0, 1, 2, 9])
def test_contiguous_at_the_ends_of_the_rate(num_eligible):
    eligible = (torch.arange(9) < num_eligible).expand(50, 9)
    nothing = ContiguousMasking().select(request(eligible, torch.zeros(50, 9), keyed(50, 9)))
    assert not nothing.corrupted.any()
    assert (nothing.p_mask == 0).all()
    everything = ContiguousMasking().select(request(eligible, torch.ones(50, 9), keyed(50, 9)))
    assert torch.equal(everything.corrupted, eligible)
    assert torch.equal(everything.p_mask, eligible.float())


def test_contiguous_at_rate_one_covers_the_row_for_the_smallest_draw_too():
    eligible = torch.ones(1, 6, dtype=torch.bool)
    draws = GivenStart(row=torch.zeros(1))
    assert ContiguousMasking().select(request(eligible, torch.ones(1, 6), draws)).corrupted.all()


def test_a_single_eligible_position_is_masked_for_certain_and_says_so():
    eligible = torch.zeros(64, 5, dtype=torch.bool)
    eligible[:, 3] = True
    selection = ContiguousMasking().select(request(eligible, torch.full((64, 5), 0.2), keyed(64, 5)))
    assert torch.equal(selection.corrupted, eligible)
    assert torch.equal(selection.p_mask, eligible.float())


def test_contiguous_uses_the_mean_rate_over_eligible_positions():
    eligible = torch.tensor([[True] * 8 + [False] * 4])
    varying = torch.tensor([[0.25, 0.75] * 4 + [1.0] * 4])
    masking, draws = ContiguousMasking(), keyed(1, 12)
    expected = masking.select(request(eligible, torch.full((1, 12), 0.5), draws))
    found = masking.select(request(eligible, varying, draws))
    assert torch.equal(found.corrupted, expected.corrupted)
    assert torch.equal(found.p_mask, expected.p_mask)


@pytest.mark.parametrize("p", [0.02, 0.3, 0.6, 0.95])
def test_contiguous_frequencies_match_p_mask(p):
    num_rows, length = 20_000, 40
    eligible = torch.ones(num_rows, length, dtype=torch.bool)
    selection = ContiguousMasking().select(
        request(eligible, torch.full((num_rows, length), p), keyed(num_rows, length))
    )
    rate = float(selection.p_mask[0, 0])
    frequency = selection.corrupted.double().mean(dim=0)
    z = (frequency - rate) / sqrt(rate * (1 - rate) / num_rows)
    assert z.abs().max() < 5  # 40 positions; the chance that one of them is further out is 2e-5


def test_contiguous_works_on_very_long_rows():
    length = 1 << 17
    eligible = torch.ones(2, length, dtype=torch.bool)
    rates = torch.tensor([[0.999999], [1e-6]]).expand(2, length)
    selection = ContiguousMasking().select(request(eligible, rates, keyed(2, length)))
    assert selection.p_mask[:, 0].tolist() == pytest.approx([0.999999, 1 / length], rel=1e-4)


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9])
def test_bernoulli_frequencies_and_pairs_match_independence(p):
    num_rows, length = 20_000, 12
    eligible = torch.ones(num_rows, length, dtype=torch.bool)
    selection = BernoulliMasking().select(request(eligible, torch.full((num_rows, length), p), keyed(num_rows, length)))
    excess = selection.corrupted.double() - p
    z_single = excess.mean(dim=0) / sqrt(p * (1 - p) / num_rows)
    z_pairs = (excess.T @ excess / num_rows / (p * (1 - p) / sqrt(num_rows))).fill_diagonal_(0)
    assert z_single.abs().max() < 5
    assert z_pairs.abs().max() < 5.5
    assert IS_INDEPENDENT.of(BernoulliMasking())
    assert not IS_INDEPENDENT.of(ContiguousMasking())


def test_bernoulli_reports_the_rate_where_eligible_and_nothing_elsewhere():
    eligible = torch.tensor([[True, False, True, True]])
    p = torch.tensor([[0.1, 0.9, 1.0, 0.0]])
    selection = BernoulliMasking().select(request(eligible, p, keyed(1, 4)))
    assert torch.equal(selection.p_mask, torch.tensor([[0.1, 0.0, 1.0, 0.0]]))
    assert selection.corrupted.tolist()[0][1:] == [False, True, False]
