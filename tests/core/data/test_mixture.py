"""Each source has its share of the rows, goes through all of its rows before it repeats one, and resumes anywhere."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlm.data.batch import Collator, StepShape
from dlm.data.loader import StepLoader
from dlm.data.mixture import MixedRows, _rounded
from dlm.data.packing import text_rows


@pytest.fixture(scope="session")
def mixed(make_store):
    def make(sizes, weights):
        """Row i of source s holds the id 1000 s + i."""
        parts = tuple(
            text_rows(make_store(*([1000 * number + row] for row in range(size))), max_length=4, pack=False)
            for number, size in enumerate(sizes)
        )
        return MixedRows(parts, tuple("abcdef"[: len(sizes)]), tuple(weights))

    return make


def ids_in_order(rows, num_places, *, epoch=0, first=0, seed=3):
    places = np.arange(first, first + num_places)
    order = rows.order(places, num_rows=len(rows), seed=seed, epoch=epoch)
    return [int(rows[number].input_ids[0]) for number in order]


@settings(deadline=None, max_examples=40)
@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=5),
    weights=st.lists(st.floats(0.05, 20), min_size=5, max_size=5),
)
def test_every_stretch_has_the_shares_and_no_source_repeats_before_its_end(mixed, sizes, weights):
    rows = mixed(sizes, weights[: len(sizes)])
    found = ids_in_order(rows, len(rows)) + ids_in_order(rows, len(rows), epoch=1)
    for first in (0, len(found) // 3):
        counts = Counter(id_ // 1000 for id_ in found[first:])
        for number, share in enumerate(rows.shares):
            assert abs(counts[number] - share * len(found[first:])) < len(sizes) + 1
    for number, size in enumerate(sizes):
        own = [id_ for id_ in found if id_ // 1000 == number]
        for start in range(0, len(own), size):
            once = own[start : start + size]
            assert len(set(once)) == len(once)


def test_sources_of_equal_size_and_weight_have_orders_of_their_own(mixed):
    rows = mixed([50, 50], [1, 1])
    found = ids_in_order(rows, 100)
    one, other = ([id_ % 1000 for id_ in found if id_ // 1000 == number] for number in (0, 1))
    assert sorted(one) == sorted(other) == list(range(50))
    assert one != other
    assert found != ids_in_order(rows, 100, seed=4)


@settings(deadline=None, max_examples=25)
@given(position=st.integers(0, 60))
def test_resumed_steps_equal_uninterrupted_ones(mixed, position):
    rows = mixed([17, 5, 40], [1, 3, 0.5])
    shape = StepShape(batch_size=2, accumulation=2)
    loader = StepLoader(rows=rows, collate=Collator(pad_id=0), shape=shape, seed=1, order=rows.order)
    expected = [step.row_ids for step in itertools.islice(loader.steps(), position, position + 3)]
    epoch, epoch_batch = divmod(position, loader.steps_per_epoch)
    assert [step.row_ids for step in itertools.islice(loader.steps(epoch, epoch_batch), 3)] == expected


def test_chosen_rows_are_those_of_the_sources(mixed):
    rows = mixed([5, 4, 6], [1, 2, 3])
    chosen = rows.select(np.array([0, 3, 9, 14]))
    assert [int(chosen[number].input_ids[0]) for number in range(len(chosen))] == [0, 3, 2000, 2005]
    assert (chosen.names, chosen.weights) == (("a", "c"), (1, 3))
    assert [int(row.input_ids[0]) for row in rows.select_documents(np.array([4, 5]))] == [4, 1000]
    assert rows.lengths.tolist() == [1] * 15


@pytest.mark.parametrize("change", [([5, 4], [1, 3]), ([5, 5], [1, 2]), ([4, 5], [1, 2])])
def test_fingerprint_changes_with_rows_and_weights(mixed, change):
    assert mixed([5, 4], [1, 2]).fingerprint == mixed([5, 4], [2, 4]).fingerprint != mixed(*change).fingerprint


@given(weights=st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=9))
def test_shares_are_rounded_to_whole_places_and_none_to_nothing(weights):
    shares = np.asarray(weights) / sum(weights)
    counts = _rounded(shares, 1 << 16)
    assert counts.sum() == 1 << 16
    assert counts.min() >= 1
    assert np.abs(counts - shares * (1 << 16)).max() <= len(weights) + 1
