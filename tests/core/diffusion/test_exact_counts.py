"""Evaluation's noise: every subset with its probability, counts in strata, weights of the bound."""

from itertools import combinations
from math import comb
from typing import Any

import pytest
import torch

from dlm.diffusion.forward_process import NoisedBatch
from dlm.diffusion.times import TIME_UNITS
from dlm.training.model_and_noise import for_evaluation

ROWS = 4000


def evaluated(lab: Any, *rows: Any, num_rows: int | None = None, **changes: Any) -> NoisedBatch:
    process = for_evaluation(lab.process(**changes))
    return process(lab.batch(*rows), step=0, num_rows=num_rows or len(rows))


@pytest.fixture(scope="module")
def many(lab: Any, docs: Any) -> NoisedBatch:
    return evaluated(lab, *[docs((6, 3))] * ROWS)


def test_every_subset_has_its_probability(many: NoisedBatch) -> None:
    """1 / (L C(L, k)): chi-square over the 7 subsets of 3 tokens, whose counts the grid makes even."""
    hidden = many.corrupted[:, 3:]
    assert not bool(many.corrupted[:, :3].any())
    number = (hidden.long() * torch.tensor([4, 2, 1])).sum(dim=1)
    found = torch.bincount(number, minlength=8)
    expected = torch.zeros(8, dtype=torch.float64)
    for k in range(1, 4):
        for chosen in combinations((4, 2, 1), k):
            expected[sum(chosen)] += ROWS / (3 * comb(3, k))
    assert found[0] == 0
    assert float(((found - expected)[1:] ** 2 / expected[1:]).sum()) < 22.5  # 6 degrees of freedom: once in 1,000
    counts = torch.bincount(hidden.sum(dim=1), minlength=4)[1:]
    assert int((counts - ROWS / 3).abs().max()) <= 1


def test_weights_are_those_of_the_bound_for_every_loss(many: NoisedBatch) -> None:
    """L / k: for losses that divide by the probability, and for those that take the schedule's derivative."""
    weight = 3 / many.corrupted.sum(dim=1, keepdim=True).float()
    for found in (many.weight[:, 3:], (many.rate_derivative / many.rate)[:, 3:], 1 / many.p_mask[:, 3:]):
        torch.testing.assert_close(found, weight.expand(-1, 3), rtol=1e-6, atol=0)


@pytest.mark.parametrize("length", [1, 7, 48])
def test_counts_are_uniform_however_few_rows_there_are(lab: Any, docs: Any, length: int) -> None:
    """Chi-square over evaluations of 3 rows: on the middles of a grid some counts would never come."""
    counts = torch.zeros(length)
    num_seeds = 5 * length
    for seed in range(num_seeds):
        noised = evaluated(lab, *[docs(length)] * 3, seed=seed)
        counts += torch.bincount(noised.corrupted.sum(dim=1), minlength=length + 1)[1:]
    expected = 3 * num_seeds / length
    limit = length - 1 + 4 * (2 * (length - 1)) ** 0.5 + 1e-9
    assert float(((counts - expected) ** 2 / expected).sum()) <= limit


def test_rows_of_one_evaluation_cover_all_counts(lab: Any, docs: Any) -> None:
    noised = evaluated(lab, *[docs(48)] * 48)
    places = (noised.t[:, 0] * 48).long()
    assert places.sort().values.tolist() == list(range(48))
    assert (noised.corrupted.sum(dim=1) - 1).tolist() == places.tolist()


def test_blocks_that_see_no_other_noisy_one_have_counts_of_their_own(lab: Any, docs: Any) -> None:
    changes = {"time_unit": TIME_UNITS["block"], "blocks_are_separate": True}
    noised = evaluated(lab, *[docs(10)] * 2000, **changes)
    counts = torch.stack([each.sum(dim=1) for each in noised.corrupted.split(4, dim=1)])
    for number, length in enumerate((4, 4, 2)):  # blocks of 4, the last one cut off
        found = torch.bincount(counts[number], minlength=length + 1)
        assert found[0] == 0
        assert float((found[1:] - 2000 / length).abs().max()) <= 1
    assert not torch.equal(counts[0], counts[1])
    torch.testing.assert_close(noised.rate[:, 0], counts[0] / 4)


def test_a_row_has_the_same_masks_beside_other_rows_and_padding(lab: Any, docs: Any) -> None:
    both = evaluated(lab, docs((6, 3)), docs(9), None, num_rows=5)
    alone = evaluated(lab, docs((6, 3)), num_rows=5)
    assert torch.equal(both.corrupted[0, :6], alone.corrupted[0])
    assert not bool(both.corrupted[0, 6:].any())
    assert not bool(both.corrupted[2].any())
    assert bool(torch.isfinite(both.rate).all())


@pytest.mark.parametrize(
    "changes",
    [
        {"masking": "contiguous"},
        {"region_probability": 0.5},
        {"time_unit": TIME_UNITS["token"]},
        {"time_unit": TIME_UNITS["block"]},
    ],
    ids=["contiguous", "a region", "a time for each token", "a time for each block"],
)
def test_other_noise_is_evaluated_as_it_is_trained(lab: Any, changes: dict[str, Any]) -> None:
    if "masking" in changes:
        changes = {"masking": lab.component("masking", changes["masking"])}
    process = lab.process(**changes)
    found = for_evaluation(process)
    assert found.exact_counts is None
    assert (found.schedule, found.masking) == (process.schedule, process.masking)
    assert found.seed != process.seed
