"""The forward process: what is drawn, with which probability, and on what it depends."""

from collections.abc import Iterator
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dlm.data.batch import Batch
from dlm.diffusion.forward_process import NoisedBatch, inverse_probability
from dlm.diffusion.times import TIME_SAMPLERS, TIME_UNITS
from dlm_plugins import MaskingRequest, Selection
from dlm_plugins.testing.z_test import threshold, z_of_frequency, z_of_mean

NOT_BY_POSITION = ("clean", "scored_index", "layout_key", "policy", "moment")
NOISED = [name for name in attrs.fields_dict(NoisedBatch) if name not in NOT_BY_POSITION]
NUM_STEPS = 400


def over_steps(lab: Any, batch: Batch, *, num_steps: int = NUM_STEPS, **changes: Any) -> Iterator[NoisedBatch]:
    process = lab.process(**changes)
    return (process(batch, step=step, num_rows=len(batch.row_index)) for step in range(num_steps))


def stacked(noised: list[NoisedBatch], name: str) -> Tensor:
    """(steps, B, L)"""
    return torch.stack([getattr(each, name) for each in noised])


@pytest.mark.parametrize("region", [0.0, 0.3, 1.0], ids="region-{}".format)
@pytest.mark.parametrize("masking", ["bernoulli", "contiguous"])
def test_p_mask_is_the_probability_of_being_corrupted(lab, docs, masking: str, region: float) -> None:
    batch = lab.batch(docs((14, 9)), docs((4, 2), (6, 5)))
    noised = list(over_steps(lab, batch, masking=lab.component("masking", masking), region_probability=region))
    corrupted, p = stacked(noised, "corrupted").double(), stacked(noised, "p_mask").double()
    num_places = int(batch.eligible.sum())
    assert float(z_of_frequency(corrupted - p, p * (1 - p)).abs().max()) < threshold(num_places)
    # The weights undo it: E[corrupted / p] = 1. The law has a heavy tail, which the mean over a row's places tames.
    unbiased = torch.where(batch.eligible, corrupted / p.clamp(min=1e-9) - 1, 0.0).mean(dim=2)
    assert float(z_of_mean(unbiased).abs().max()) < threshold(len(batch.row_index))


@pytest.mark.parametrize("masking", ["bernoulli", "contiguous", "complementary"])
def test_all_of_it_can_be_sent_from_pinned_memory(lab, docs, monkeypatch: Any, masking: str) -> None:
    """CUDA's pinned memory has the strides of what is copied into it: an expanded tensor is refused there."""
    noised = lab.process(masking=lab.component("masking", masking))(lab.batch(docs((14, 9))), step=0, num_rows=1)
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: torch.empty_strided(self.shape, self.stride()).copy_(self))
    monkeypatch.setattr(Tensor, "to", lambda self, *_, **__: self)
    sent = noised.to(torch.device("cuda"))
    for name in NOISED:
        assert getattr(sent, name).equal(getattr(noised, name)), name


@pytest.mark.parametrize("noise_type", ["mask", "random_replace"])
@pytest.mark.parametrize("schedule", ["uniform", "cosine", "power", "sigmoid"])
def test_only_eligible_positions_change(lab, docs, schedule: str, noise_type: str) -> None:
    batch = lab.batch(docs((14, 9)), docs((4, 2), (6, 5)), None)
    changes = {
        "schedule": lab.component("noise_schedule", schedule),
        "noise_type": lab.component("noise_type", noise_type),
        "region_probability": 0.5,
    }
    for noised in over_steps(lab, batch, num_steps=40, **changes):
        assert not (noised.corrupted & ~batch.eligible).any()
        assert torch.equal(noised.noisy_ids[~noised.corrupted], batch.input_ids[~noised.corrupted])
        assert (noised.noisy_ids[noised.corrupted] != batch.input_ids[noised.corrupted]).all()
        assert (noised.p_mask[~batch.eligible] == 0).all()
        assert (noised.weight[~batch.eligible] == 0).all()


def test_the_region_coin_has_its_probability_and_p_mask_is_given_the_coin(lab, docs) -> None:
    batch, probability = lab.batch(docs(12), docs(12)), 0.25
    heads = []
    for noised in over_steps(lab, batch, region_probability=probability):
        for row in range(2):
            # Bernoulli's probability is the rate itself; a span's is k / (n + k - 1) for a whole k.
            is_span = not torch.equal(noised.p_mask[row], noised.rate[row])
            heads.append(is_span)
            if is_span:
                p = noised.p_mask[row].double().unique()
                assert len(p) == 1
                k = 11 * p / (1 - p)
                assert float(((k - k.round()) / k).abs()) < 1e-4
                places = noised.corrupted[row].nonzero()[:, 0]
                assert torch.equal(places, torch.arange(int(places[0]), int(places[-1]) + 1))
    excess = torch.tensor(heads).double() - probability
    variance = torch.full_like(excess, probability * (1 - probability))
    assert abs(float(z_of_frequency(excess, variance))) < threshold(1)


def test_the_rate_is_clipped_from_below_and_weighted_as_clipped(lab, docs) -> None:
    batch = lab.batch(*[docs(16)] * 16)
    least = 0.4
    noised = list(over_steps(lab, batch, num_steps=200, min_masking_rate=least))
    t, rate, p = (stacked(noised, name) for name in ("t", "rate", "p_mask"))
    unclipped = 0.999 * t + 0.001
    torch.testing.assert_close(rate, unclipped.clamp(min=least))
    assert (rate == least).float().mean() > 0.3
    assert torch.equal(p, rate)
    assert torch.equal(stacked(noised, "weight"), 1 / rate)
    torch.testing.assert_close(stacked(noised, "rate_derivative"), torch.full_like(t, 0.999))
    # The noise itself was drawn with the clipped rate.
    corrupted = stacked(noised, "corrupted")[rate == least].double()
    z = z_of_frequency(corrupted - least, torch.full_like(corrupted, least * (1 - least)))
    assert abs(float(z)) < threshold(1)


@settings(deadline=None, max_examples=30)
@given(st.floats(1.0, 50.0), st.lists(st.sampled_from([0.0, 1e-30, 0.01, 0.5, 1.0]), min_size=1))
def test_weights_are_inverse_probabilities_up_to_the_cap(cap: float, probabilities: list[float]) -> None:
    p = torch.tensor(probabilities)
    expected = [0.0 if value == 0 else min(1 / value, cap) for value in probabilities]
    torch.testing.assert_close(inverse_probability(p, cap), torch.tensor(expected))
    uncapped = inverse_probability(p, None)
    assert bool(torch.isfinite(uncapped).all())
    torch.testing.assert_close(uncapped, torch.tensor([0.0 if value == 0 else 1 / value for value in p.tolist()]))


def test_the_cap_reaches_the_batch(lab, docs) -> None:
    noised = lab.noised(lab.batch(*[docs(16)] * 8), reweight_cap=3.0)
    assert float(noised.weight.max()) == 3.0
    uncapped = noised.p_mask > 1 / 3
    assert torch.equal(noised.weight[uncapped], 1 / noised.p_mask[uncapped])


class Independent:
    """Two views whose coins should be the same."""

    num_views = 2

    def select(self, request: MaskingRequest) -> Selection:
        self.view_index, self.context = request.view_index, request.context
        corrupted = request.eligible & (request.draws.per_position("coin") < request.p)
        return Selection(corrupted=corrupted, p_mask=request.p.masked_fill(~request.eligible, 0.0))


def test_views_repeat_the_rows_and_share_their_draws(lab, docs) -> None:
    batch, masking = lab.batch(docs(14), docs(9), docs(11)), Independent()
    for noised in over_steps(lab, batch, num_steps=10, masking=masking, region_probability=0.5):
        assert torch.equal(noised.clean.input_ids, batch.input_ids.repeat_interleave(2, dim=0))
        assert torch.equal(noised.clean.row_index, batch.row_index.repeat_interleave(2))
        for name in NOISED:
            first, second = getattr(noised, name)[::2], getattr(noised, name)[1::2]
            assert torch.equal(first, second), name
    assert masking.view_index.tolist() == [0, 1, 0, 1, 0, 1]


def test_a_masking_is_told_what_is_context_and_padding_is_not(lab, docs) -> None:
    masking = Independent()
    lab.noised(lab.batch(docs((4, 1)), docs((2, 2)), docs((3, 2), (2, 1))), masking=masking)
    rows = [[1, 1, 1, 0, 0], [0, 0, 0, 0, 0], [1, 0, 0, 1, 0]]
    assert masking.context.int().tolist() == [row for row in rows for _ in range(2)]


def test_a_batch_knows_how_far_the_run_is(lab, docs) -> None:
    batch = lab.batch(docs(9))
    assert lab.noised(batch).moment is None
    moments = [lab.noised(batch, step=step, num_steps=4).moment for step in (0, 1, 4, 6)]
    assert [(each.progress, each.seed, each.step) for each in moments] == [
        (0, 11, 0),
        (0.25, 11, 1),
        (1, 11, 4),
        (1, 11, 6),
    ]


WAYS = {
    "usual": {},
    "region": {"region_probability": 0.5},
    "contiguous": {"masking": ("masking", "contiguous")},
    "replace": {"noise_type": ("noise_type", "random_replace")},
    "block": {"time_unit": TIME_UNITS["block"]},
    "token": {"time_unit": TIME_UNITS["token"]},
    "independent": {"sample_times": TIME_SAMPLERS["independent"]},
}


@pytest.mark.parametrize("way", list(WAYS))
def test_the_noise_of_a_row_does_not_depend_on_its_micro_batch_or_padding(lab, docs, way: str) -> None:
    changes = {k: lab.component(*v) if isinstance(v, tuple) else v for k, v in WAYS[way].items()}
    rows = [docs(14), docs(4, 6), docs(16), docs(3, 3, 5), docs(9)]
    whole = lab.noised(lab.batch(*rows), num_rows=5, **changes)
    splits = {
        "one by one": [lab.batch(row, first_row=k) for k, row in enumerate(rows)],
        "two and three": [lab.batch(*rows[:2]), lab.batch(*rows[2:], first_row=2)],
        "with fillers and padding": [lab.batch(*rows[:3], max_length=25), lab.batch(*rows[3:], None, first_row=3)],
    }
    for split, batches in splits.items():
        parts = [lab.noised(batch, num_rows=5, **changes) for batch in batches]
        found = {int(k): (part, place) for part in parts for place, k in enumerate(part.clean.row_index) if k >= 0}
        for k in range(5):
            part, place = found[k]
            real = whole.clean.document_id[k] >= 0
            for name in NOISED:
                mine = getattr(part, name)[place][: len(real)][real[: part.noisy_ids.shape[1]]]
                assert torch.equal(mine, getattr(whole, name)[k][real]), (split, k, name)


def test_steps_and_seeds_have_noise_of_their_own(lab, docs) -> None:
    batch = lab.batch(docs(40))
    base = lab.noised(batch, step=1)
    assert torch.equal(base.noisy_ids, lab.noised(batch, step=1).noisy_ids)
    for other in (lab.noised(batch, step=2), lab.noised(batch, step=1, seed=12)):
        assert not torch.equal(base.t, other.t)
        assert not torch.equal(base.corrupted, other.corrupted)


def test_the_global_generator_is_left_alone(lab, docs) -> None:
    batch = lab.batch(docs(14), docs(9))
    before = torch.get_rng_state()
    lab.noised(batch, region_probability=0.5, noise_type=lab.component("noise_type", "random_replace"))
    assert torch.equal(before, torch.get_rng_state())
