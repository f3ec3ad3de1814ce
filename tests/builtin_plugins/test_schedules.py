"""Schedules against their formulas in 50 digits, and at the ends."""

import pickle
from collections.abc import Callable

import mpmath
import numpy as np
import pytest
import torch

from dlm_builtin_plugins.schedules.cosine import CosineSchedule
from dlm_builtin_plugins.schedules.power import PowerSchedule
from dlm_builtin_plugins.schedules.sigmoid import SigmoidSchedule
from dlm_builtin_plugins.schedules.uniform import UniformSchedule
from dlm_plugins import NoiseSchedule
from dlm_plugins.noise_schedule import COVERS_UNIT_INTERVAL

Formula = Callable[[mpmath.mpf], mpmath.mpf]


def sigmoid_formula(start: float, end: float, tau: float) -> Formula:
    def logistic(x: mpmath.mpf) -> mpmath.mpf:
        return 1 / (1 + mpmath.exp(-x))

    first, last = mpmath.mpf(start) / mpmath.mpf(tau), mpmath.mpf(end) / mpmath.mpf(tau)
    # The published form, whose time u runs from masked to clean.
    return lambda t: (logistic(last) - logistic(last + t * (first - last))) / (logistic(last) - logistic(first))


CASES: list[tuple[NoiseSchedule, Formula]] = [
    (UniformSchedule(), lambda t: (1 - mpmath.mpf(1e-3)) * t + mpmath.mpf(1e-3)),
    (UniformSchedule(eps=0), lambda t: t),
    (UniformSchedule(eps=0.01), lambda t: (1 - mpmath.mpf(0.01)) * t + mpmath.mpf(0.01)),
    (CosineSchedule(), lambda t: mpmath.sin(mpmath.pi * t / 2)),
    *[
        (PowerSchedule(exponent=exponent), lambda t, exponent=exponent: 1 - (1 - t) ** mpmath.mpf(exponent))
        for exponent in (0.25, 0.5, 1, 2, 3, 20)
    ],
    *[
        (SigmoidSchedule(start=start, end=end, tau=tau), sigmoid_formula(start, end, tau))
        for start, end, tau in (
            (-3, 3, 1),
            (-6, 6, 0.7),
            (-3, 3, 0.05),
            (-3, 3, 100),
            (0, 3, 0.3),
            (10, 20, 1),
            (-40, -20, 1),
        )
    ],
]


def name_of(value: object) -> str:
    """The same in every process: functions by their names."""
    return getattr(value, "__name__", repr(value))


SCHEDULES = [schedule for schedule, _ in CASES]
FULL = [schedule for schedule in SCHEDULES if COVERS_UNIT_INTERVAL.of(schedule)]

TIMES = (1e-6, 1e-4, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.9999)


@pytest.fixture(autouse=True)
def fifty_digits():
    with mpmath.workdps(50):
        yield


@pytest.mark.parametrize(("schedule", "formula"), CASES, ids=name_of)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 4e-6), (torch.float64, 1e-12)])
def test_mask_rate_follows_the_published_formula(schedule, formula, dtype, tolerance):
    times = torch.tensor(TIMES, dtype=dtype)
    expected = [float(formula(mpmath.mpf(t))) for t in times.tolist()]
    # The steepest curves turn the rounding of x itself, up to eps times its size, into a relative error.
    width = abs(getattr(schedule, "end", 0) - getattr(schedule, "start", 0)) / getattr(schedule, "tau", 1)
    np.testing.assert_allclose(schedule.mask_rate(times), expected, rtol=tolerance * max(1, width))


@pytest.mark.parametrize(("schedule", "formula"), CASES, ids=name_of)
def test_derivative_is_that_of_the_published_formula(schedule, formula):
    times = torch.tensor(TIMES, dtype=torch.float64)
    expected = [float(mpmath.diff(formula, mpmath.mpf(t), h=mpmath.mpf("1e-20"))) for t in times.tolist()]
    np.testing.assert_allclose(schedule.mask_rate_derivative(times), expected, rtol=1e-9)
    np.testing.assert_allclose(schedule.mask_rate_derivative(times.float()), expected, rtol=1e-3, atol=1e-30)


@pytest.mark.parametrize("schedule", FULL, ids=repr)
@pytest.mark.parametrize("num_times", [1, 2, 7, 8, 9, 64, 1001])
def test_full_schedules_end_at_exactly_zero_and_one(schedule, num_times):
    for dtype in (torch.float32, torch.float64):
        assert (schedule.mask_rate(torch.zeros(num_times, dtype=dtype)) == 0).all()
        assert (schedule.mask_rate(torch.ones(num_times, dtype=dtype)) == 1).all()


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_rates_never_leave_the_unit_interval_nor_stick_below_one(schedule):
    times = torch.linspace(0, 1, 20_001)
    rates = schedule.mask_rate(times)
    assert ((rates >= 0) & (rates <= 1)).all()
    assert (rates.diff() >= -1e-6).all()
    derivative = schedule.mask_rate_derivative(times)
    assert (derivative >= 0).all()
    assert derivative[:-1].isfinite().all()


def test_uniform_covers_the_unit_interval_only_without_clipping():
    assert not COVERS_UNIT_INTERVAL.of(UniformSchedule())
    assert COVERS_UNIT_INTERVAL.of(UniformSchedule(eps=0))
    assert UniformSchedule().mask_rate(torch.tensor([0.0, 1.0])).tolist() == [pytest.approx(1e-3), 1.0]


@pytest.mark.parametrize(
    ("schedule", "mean"),
    [
        (UniformSchedule(eps=0), 1 / 2),
        (CosineSchedule(), 2 / np.pi),
        (PowerSchedule(exponent=0.5), 1 / 3),
        (PowerSchedule(), 2 / 3),
        (PowerSchedule(exponent=3), 3 / 4),
        (SigmoidSchedule(), 1 / 2),
    ],
    ids=repr,
)
def test_mean_mask_rate_is_the_known_one(schedule, mean):
    midpoints = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    assert float(schedule.mask_rate(midpoints).mean()) == pytest.approx(mean, abs=1e-5)


@pytest.mark.parametrize("exponent", [0.5, 1, 2])
def test_power_derivative_at_the_end(exponent):
    found = float(PowerSchedule(exponent=exponent).mask_rate_derivative(torch.tensor(1.0)))
    assert found == {0.5: float("inf"), 1: 1.0, 2: 0.0}[exponent]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_half_precision_times_are_computed_in_float32(schedule):
    times = torch.tensor([[0.25, 0.5]], dtype=torch.bfloat16)
    for method in (schedule.mask_rate, schedule.mask_rate_derivative):
        assert method(times).dtype == torch.float32
        assert torch.equal(method(times), method(times.float()))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: UniformSchedule(eps=0.5), "'eps' must be <= 0.01"),
        (lambda: UniformSchedule(eps=-0.1), "'eps' must be >= 0"),
        (lambda: PowerSchedule(exponent=0), "'exponent' must be > 0"),
        (lambda: SigmoidSchedule(start=1, end=1), "'end' must be greater than 'start', 1: 1"),
        (lambda: SigmoidSchedule(tau=0), "'tau' must be > 0"),
    ],
)
def test_options_out_of_range_are_refused_by_name(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_schedules_survive_pickling(schedule):
    assert pickle.loads(pickle.dumps(schedule)) == schedule
