"""Random truncation: one coin a step, for all micro-batches; lengths uniform."""

import math

import torch

from dlm.data.batch import RandomLength


def lengths(lab, docs, random_length: RandomLength, num_steps: int, length: int) -> list[int]:
    batch = lab.batch(docs(length))
    return [random_length(batch, step).input_ids.shape[1] for step in range(num_steps)]


def test_the_coin_has_its_probability(lab, docs) -> None:
    num_steps, probability, longest = 3000, 0.2, 40
    cut = lengths(lab, docs, RandomLength(probability=probability, max_length=longest, seed=1), num_steps, longest)
    # A fortieth of the cuts takes nothing away.
    expected = probability * (1 - 1 / longest)
    num_cut = sum(length < longest for length in cut)
    assert abs(num_cut - num_steps * expected) < 4 * math.sqrt(num_steps * expected * (1 - expected))


def test_lengths_are_uniform_from_one_to_the_longest(lab, docs) -> None:
    num_steps, longest = 2000, 8
    found = lengths(lab, docs, RandomLength(probability=1.0, max_length=longest, seed=2), num_steps, longest)
    counts = torch.bincount(torch.tensor(found), minlength=longest + 1)
    assert counts[0] == 0
    chi_square = float(((counts[1:] - num_steps / longest) ** 2 / (num_steps / longest)).sum())
    assert chi_square < 29.9  # 7 degrees of freedom: exceeded once in 10,000


def test_all_micro_batches_of_a_step_are_cut_alike(lab, docs) -> None:
    random_length = RandomLength(probability=0.5, max_length=20, seed=3)
    micro_batches = [lab.batch(docs(20), docs(20)), lab.batch(docs(20), docs(12), first_row=2), lab.batch(None)]
    cuts = []
    for step in range(30):
        found = {
            random_length(batch, step).input_ids.shape[1] for batch in micro_batches if batch.input_ids.shape[1] == 20
        }
        assert len(found) == 1
        cuts.append(found.pop())
    assert len(set(cuts)) > 5


def test_zero_never_cuts_and_one_always_draws(lab, docs) -> None:
    batch = lab.batch(docs(20))
    assert all(RandomLength(probability=0.0, max_length=20, seed=4)(batch, step) is batch for step in range(200))
    assert set(lengths(lab, docs, RandomLength(probability=1.0, max_length=20, seed=4), 300, 20)) == set(range(1, 21))


def test_a_cut_keeps_the_beginning_of_every_tensor(lab, docs) -> None:
    batch = lab.batch(docs((20, 9)), docs((7, 3), (6, 2)))
    cut = RandomLength(probability=1.0, max_length=20, seed=5)(batch, 1)
    length = cut.input_ids.shape[1]
    assert 1 <= length < 20
    for name in ("input_ids", "document_id", "position", "eligible", "answer_start", "answer_length"):
        assert torch.equal(getattr(cut, name), getattr(batch, name)[:, :length]), name
    assert torch.equal(cut.row_index, batch.row_index)
