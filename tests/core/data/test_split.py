import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlm.data.packing import text_rows
from dlm.data.split import sample_rows, split_rows
from dlm.errors import DataError


def all_ids(rows):
    return [id_ for number in range(len(rows)) for id_ in rows[number].input_ids.tolist()]


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=60),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 1000),
    pack=st.booleans(),
)
def test_two_sides_are_everything_and_share_nothing(make_store, lengths, fraction, seed, pack):
    ends = np.cumsum(lengths)
    documents = [list(range(end - length, end)) for end, length in zip(ends, lengths, strict=True)]
    rows = text_rows(make_store(*documents), max_length=4, pack=pack)
    if len(rows) < 2:
        return
    training, evaluation = split_rows(rows, fraction, seed)
    assert len(training) >= 1
    assert len(evaluation) >= 1
    assert sorted(all_ids(training) + all_ids(evaluation)) == list(range(sum(lengths)))


def test_whole_documents_are_held_out_where_there_are_many(make_store):
    documents = [[number] * 10 for number in range(100)]
    training, evaluation = split_rows(text_rows(make_store(*documents), max_length=16), 0.1, seed=3)
    assert evaluation.num_documents == 10
    assert not set(all_ids(training)) & set(all_ids(evaluation))


def test_few_documents_are_split_by_row(make_store):
    rows = text_rows(make_store(list(range(1000))), max_length=10)
    training, evaluation = split_rows(rows, 0.05, seed=0)
    assert (len(training), len(evaluation)) == (95, 5)


def test_documents_too_large_for_the_fraction_are_split_by_row(make_store):
    documents = [[number] * 100 for number in range(20)]
    training, evaluation = split_rows(text_rows(make_store(*documents), max_length=10), 0.02, seed=0)
    assert (len(training), len(evaluation)) == (196, 4)


def test_split_depends_on_the_seed_alone(make_rows):
    rows = make_rows(100)
    prints = [tuple(side.fingerprint for side in split_rows(rows, 0.1, seed)) for seed in (1, 1, 2)]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 2.0])
def test_fraction_outside_its_range_is_refused(make_rows, fraction):
    with pytest.raises(DataError, match=r"evaluation\.fraction"):
        split_rows(make_rows(10), fraction, seed=0)


def test_single_row_cannot_be_split(make_rows):
    with pytest.raises(DataError, match="a-set makes only 1 row"):
        split_rows(make_rows(1), 0.5, seed=0, name="a-set")


@settings(deadline=None, max_examples=60)
@given(num_rows=st.integers(1, 60), max_rows=st.integers(1, 70), seed=st.integers(0, 1000))
def test_a_sample_is_that_many_different_rows_in_their_order(make_rows, num_rows, max_rows, seed):
    rows = make_rows(num_rows)
    everything = [rows[number].input_ids.tolist() for number in range(num_rows)]
    sample = sample_rows(rows, max_rows, seed)
    found = [everything.index(sample[number].input_ids.tolist()) for number in range(len(sample))]
    assert len(set(found)) == len(found) == min(num_rows, max_rows)
    assert found == sorted(found)
    assert sample_rows(rows, max_rows, seed).fingerprint == sample.fingerprint


def test_every_row_is_as_likely_to_be_in_the_sample(make_rows):
    """Chi-square over ten rows, five of which are taken by each of 800 seeds."""
    rows = make_rows(10)
    everything = [rows[number].input_ids.tolist() for number in range(10)]
    counts = np.zeros(10)
    for seed in range(800):
        sample = sample_rows(rows, 5, seed)
        for number in range(5):
            counts[everything.index(sample[number].input_ids.tolist())] += 1
    # A count varies by 800 x 1/2 x 1/2, and they add up to a constant: 9 degrees of freedom, once in 10,000.
    assert ((counts - 400) ** 2 / 200).sum() * 9 / 10 < 33.7
