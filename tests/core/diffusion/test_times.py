"""Diffusion times: stratified over the step, independent of how its rows are split, uniform each."""

import math
import tracemalloc
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dlm.diffusion.times import (
    TIME_SAMPLERS,
    TIME_UNITS,
    TimeRequest,
    grid_times,
    independent_times,
    jittered_grid_times,
    stratified_times,
    times_of,
)

SEEDS = st.integers(0, 2**32 - 1)
STEPS = st.integers(0, 10**6)
SAMPLERS = {**TIME_SAMPLERS, "grid": grid_times, "jittered": jittered_grid_times}


def request_of(seed: int, step: int, num_rows: int, num_units: int = 1) -> TimeRequest:
    """All rows of a step."""
    return TimeRequest(seed=seed, step=step, rows=torch.arange(num_rows), num_rows=num_rows, num_units=num_units)


@settings(deadline=None, max_examples=40)
@given(seed=SEEDS, step=STEPS, num_rows=st.integers(1, 60), num_units=st.integers(1, 5))
def test_stratified_times_put_one_row_into_each_interval(seed: int, step: int, num_rows: int, num_units: int) -> None:
    t = stratified_times(request_of(seed, step, num_rows, num_units))
    assert t.shape == (num_rows, num_units)
    assert t.dtype == torch.float32
    assert bool(((t >= 0) & (t < 1)).all())
    # Sorted, neighbours are 1/n apart, around the circle too: with one offset, each interval of 1/n holds one.
    ordered = t.double().sort(dim=0).values
    gaps = torch.cat((ordered.diff(dim=0), ordered[:1] + 1 - ordered[-1:]))
    assert float((gaps - 1 / num_rows).abs().max()) < 1e-6


@settings(deadline=None, max_examples=40)
@given(seed=SEEDS, step=STEPS, num_rows=st.integers(1, 60))
def test_grid_times_are_the_middles_of_the_intervals(seed: int, step: int, num_rows: int) -> None:
    t = grid_times(request_of(seed, step, num_rows))[:, 0]
    expected = (torch.arange(num_rows) + 0.5) / num_rows
    torch.testing.assert_close(t.sort().values, expected, rtol=0, atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(seed=SEEDS, step=STEPS, num_rows=st.integers(1, 60))
def test_the_jittered_grid_has_one_time_in_each_interval(seed: int, step: int, num_rows: int) -> None:
    t = jittered_grid_times(request_of(seed, step, num_rows))[:, 0]
    within = t.double().sort().values * num_rows - torch.arange(num_rows)
    assert bool(((within > -1e-5) & (within < 1 + 1e-5) & (t < 1)).all())
    assert num_rows == 1 or float(within.max() - within.min()) > 0


def many(sampler: str, num_steps: int, num_rows: int) -> Tensor:
    """(steps, rows)"""
    return units_of_many(sampler, num_steps, num_rows, 1)[:, :, 0]


def units_of_many(sampler: str, num_steps: int, num_rows: int, num_units: int) -> Tensor:
    """(steps, rows, units)"""
    sample = SAMPLERS[sampler]
    return torch.stack([sample(request_of(3, step, num_rows, num_units)) for step in range(num_steps)]).double()


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_the_units_of_a_row_are_independent(sampler: str) -> None:
    """Chi-square on the table of quarters: of two units of a row, and of two units of different rows."""
    num_steps = 1200
    t = units_of_many(sampler, num_steps, 4, 3)
    for first, second in ((t[:, 0, 0], t[:, 0, 1]), (t[:, 2, 1], t[:, 2, 2]), (t[:, 1, 0], t[:, 3, 2])):
        table = torch.bincount((first * 4).long() * 4 + (second * 4).long(), minlength=16)
        chi_square = float(((table - num_steps / 16) ** 2 / (num_steps / 16)).sum())
        assert chi_square < 44.3  # 15 degrees of freedom: exceeded once in 10,000


@pytest.mark.parametrize("sampler", [*TIME_SAMPLERS, "jittered"])
def test_each_time_is_uniform_in_every_row(sampler: str) -> None:
    """Kolmogorov and Smirnov's test, by row: none has a favourite stratum."""
    num_steps = 1500
    t = many(sampler, num_steps, 5)
    for row in t.T:
        cumulative = torch.arange(1, num_steps + 1) / num_steps
        distance = float((row.sort().values - cumulative).abs().max())
        assert distance * math.sqrt(num_steps) < 2.2  # exceeded once in 8,000 draws


@pytest.mark.parametrize("sampler", ["stratified", "grid", "jittered"])
def test_every_order_of_the_rows_is_equally_likely(sampler: str) -> None:
    """Chi-square on the six orders of three rows: no row has a favourite neighbour."""
    num_steps = 600
    orders = many(sampler, num_steps, 3).argsort(dim=1)
    numbers = torch.bincount(orders[:, 0] * 9 + orders[:, 1] * 3 + orders[:, 2])
    counts = numbers[numbers > 0].double()
    assert len(counts) == 6
    assert float(((counts - num_steps / 6) ** 2 / (num_steps / 6)).sum()) < 25.7  # exceeded once in 10,000


def test_stratification_lowers_the_variance_of_the_mean_and_independence_does_not() -> None:
    num_steps, num_rows = 400, 16
    variance = {name: float(many(name, num_steps, num_rows).mean(dim=1).var()) for name in TIME_SAMPLERS}
    assert variance["independent"] == pytest.approx(1 / 12 / num_rows, rel=0.4)
    # The mean of an evenly spaced set only depends on the offset within an interval.
    assert variance["stratified"] == pytest.approx(1 / 12 / num_rows**2, rel=0.4)


def test_independent_rows_do_not_know_each_other() -> None:
    few, more = (independent_times(request_of(3, 8, num_rows)) for num_rows in (4, 9))
    assert torch.equal(few, more[:4])


def test_offset_and_order_change_with_step_and_seed() -> None:
    base = stratified_times(request_of(1, 1, 8))
    others = (stratified_times(request_of(1, 2, 8)), stratified_times(request_of(2, 1, 8)))
    for other in others:
        assert not torch.allclose(base.sort(dim=0).values, other.sort(dim=0).values)
        assert not torch.equal(base.argsort(dim=0), other.argsort(dim=0))


DOCUMENTS = torch.tensor([[0, 0, 0, 0, 0, 1, 1, 1, -1], [0, 0, 0, 0, 0, 0, 0, 0, 0]])
BLOCKS = torch.tensor([[-1, -1, 0, 0, 0, 0, 0, 1, 0], [0, 0, 0, 1, 1, 1, 2, 2, 2]])
SHARED = {
    "sequence": [[0] * 9, [0] * 9],
    # A new block of the same document, or the same block number in a new document, is a new unit.
    "block": [[0, 0, 1, 1, 1, 2, 2, 3, 4], [0, 0, 0, 1, 1, 1, 2, 2, 2]],
    "token": [list(range(9)), list(range(9))],
}


def times(unit: str, rows: Tensor, columns: slice = slice(None), num_rows: int = 6) -> Tensor:
    return times_of(
        stratified_times,
        TIME_UNITS[unit],
        BLOCKS[rows % 2, columns],
        DOCUMENTS[rows % 2, columns],
        rows,
        seed=9,
        step=2,
        num_rows=num_rows,
    )


@pytest.mark.parametrize("unit", list(TIME_UNITS))
def test_units_share_one_time_and_differ_from_each_other(unit: str) -> None:
    for t, numbers in zip(times(unit, torch.tensor([0, 1])), SHARED[unit], strict=True):
        by_unit = {number: {float(t[place]) for place, n in enumerate(numbers) if n == number} for number in numbers}
        assert all(len(values) == 1 for values in by_unit.values())
        assert len({value for values in by_unit.values() for value in values}) == len(by_unit)


@pytest.mark.parametrize("unit", list(TIME_UNITS))
def test_each_unit_is_stratified_over_the_rows_of_the_step(unit: str) -> None:
    t = times(unit, torch.arange(0, 6))
    first = t[:, 0].double().sort().values
    torch.testing.assert_close(first.diff(), torch.full((5,), 1 / 6, dtype=torch.float64), rtol=0, atol=1e-6)


@pytest.mark.parametrize("unit", list(TIME_UNITS))
def test_a_row_has_its_times_in_any_micro_batch_and_under_any_padding(unit: str) -> None:
    together = times(unit, torch.arange(6))
    for row in range(6):
        assert torch.equal(times(unit, torch.tensor([row])), together[row : row + 1])
        assert torch.equal(times(unit, torch.tensor([row]), slice(6)), together[row : row + 1, :6])


def test_no_tensor_grows_with_rows_times_units() -> None:
    """Evaluation has all of its rows in one step."""
    num_rows, num_units = 3000, 500
    request = TimeRequest(seed=1, step=0, rows=torch.arange(4), num_rows=num_rows, num_units=num_units)
    for sample in SAMPLERS.values():
        with LargestTensor() as largest:
            assert sample(request).shape == (4, num_units)
        assert largest.elements <= 4 * (num_rows + num_units)  # Philox makes four numbers at a time


def test_the_grid_costs_as_much_for_a_million_rows_as_for_a_thousand() -> None:
    """Every micro-batch of an evaluation asks for its own rows: working out all of them would be quadratic."""
    peaks = []
    for num_rows in (1_000, 1_000_000):
        request = TimeRequest(seed=1, step=0, rows=torch.arange(64), num_rows=num_rows, num_units=8)
        with LargestTensor() as largest:
            tracemalloc.start()  # numpy's arrays are counted here
            grid_times(request)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert largest.elements <= 64 * 8
    assert max(peaks) < 100_000


class LargestTensor(TorchDispatchMode):
    """Notes the most elements that an operation has returned."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.elements = max(self.elements, result.numel())
        return result
