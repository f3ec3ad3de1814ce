import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlm.data.order import epoch_order, shuffled


@settings(deadline=None, max_examples=100)
@given(num_rows=st.integers(1, 3000), seed=st.integers(-(2**70), 2**70), epoch=st.integers(0, 10**6))
def test_every_row_comes_once(num_rows, seed, epoch):
    order = epoch_order(num_rows=num_rows, seed=seed, epoch=epoch)
    assert sorted(order.tolist()) == list(range(num_rows))


@settings(deadline=None, max_examples=50)
@given(num_rows=st.integers(2, 3000), seed=st.integers(0, 2**40), data=st.data())
def test_any_stretch_equals_that_stretch_of_the_whole(num_rows, seed, data):
    start = data.draw(st.integers(0, num_rows - 1))
    end = data.draw(st.integers(start, num_rows))
    stretch = shuffled(np.arange(start, end), num_rows=num_rows, seed=seed, epoch=3)
    assert (stretch == epoch_order(num_rows=num_rows, seed=seed, epoch=3)[start:end]).all()


def test_epochs_and_seeds_give_different_orders():
    orders = {tuple(epoch_order(num_rows=50, seed=s, epoch=e).tolist()) for s in range(10) for e in range(10)}
    assert len(orders) == 100


@pytest.mark.parametrize("num_rows", [3, 4, 5, 16, 33])
def test_each_row_is_equally_likely_at_each_place(num_rows):
    num_orders = 1500
    counts = np.zeros((num_rows, num_rows))
    for seed in range(num_orders):
        counts[np.arange(num_rows), epoch_order(num_rows=num_rows, seed=seed, epoch=0)] += 1
    expected = num_orders / num_rows
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    degrees = (num_rows - 1) ** 2
    # Within five standard deviations of the chi-square distribution, which has mean k and variance 2k.
    assert abs(chi_square - degrees) < 5 * (2 * degrees) ** 0.5


def test_neighbours_in_the_order_are_not_related():
    order = epoch_order(num_rows=20_000, seed=1, epoch=0).astype(float)
    correlation = np.corrcoef(order[:-1], order[1:])[0, 1]
    assert abs(correlation) < 5 / 20_000**0.5


def test_a_place_far_along_costs_no_more_than_the_first():
    started = time.process_time()
    shuffled(np.arange(10**12, 10**12 + 64), num_rows=2 * 10**12, seed=0, epoch=7)
    assert time.process_time() - started < 1
