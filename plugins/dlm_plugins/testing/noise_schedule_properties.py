"""Contract tests of noise schedules: p(t) in [0, 1], rising, its derivative, float32 accuracy."""

import functools

import torch
from hypothesis import strategies as st
from torch import Tensor

from dlm_plugins.noise_schedule import COVERS_UNIT_INTERVAL, NoiseSchedule
from dlm_plugins.testing.property_tools import (
    at_every_value,
    contract_property,
    describe,
    digits,
    for_all,
    require_close,
    require_tensor,
    returned,
)
from dlm_plugins.testing.purity import require_device_kept, require_pure

_DTYPES = (torch.float32, torch.float64)
_SHAPES = ((), (0,), (3,), (2, 0, 4), (2, 3))
_ROUNDING = {torch.float32: 1e-6, torch.float64: 1e-12}
_TIMES = st.floats(0, 1, width=32)


def _rate(schedule: NoiseSchedule, t: Tensor) -> Tensor:
    return returned(schedule.mask_rate(t), Tensor, "mask_rate")


def _slope(schedule: NoiseSchedule, t: Tensor) -> Tensor:
    return returned(schedule.mask_rate_derivative(t), Tensor, "mask_rate_derivative")


_FUNCTIONS = {"mask_rate": _rate, "mask_rate_derivative": _slope}


def _grid(dtype: torch.dtype) -> Tensor:
    return torch.linspace(0, 1, 2049, dtype=dtype)


def _inside() -> Tensor:
    """(T,) float64 in (0.001, 0.999), at odd places, so that the corners of a piecewise schedule lie between them."""
    return 0.001 + 0.998 * (torch.arange(1, 1024, dtype=torch.float64) * 0.6180339887498949 % 1)


@at_every_value
@contract_property
def check_rate_in_unit_interval(schedule: NoiseSchedule) -> None:
    """0 <= p(t) <= 1 for every t."""

    def body(time: float) -> None:
        for dtype in _DTYPES:
            rate = _rate(schedule, torch.tensor(time, dtype=dtype))
            if not 0 <= rate <= 1:
                raise AssertionError(f"p({time}) = {digits(rate)} in {dtype}")

    for_all(_TIMES, body)
    for dtype in _DTYPES:
        rates = _rate(schedule, _grid(dtype))
        outside = ~((rates >= 0) & (rates <= 1))
        if outside.any():
            raise AssertionError(f"p({digits(_grid(dtype)[outside][0])}) = {digits(rates[outside][0])} in {dtype}")


@at_every_value
@contract_property
def check_starts_clean(schedule: NoiseSchedule) -> None:
    """p(0) <= 0.01, at t = 0 the text is (nearly) clean, where ``covers_unit_interval`` is claimed."""
    if not COVERS_UNIT_INTERVAL.of(schedule):
        return
    for dtype in _DTYPES:
        rate = _rate(schedule, torch.zeros(1, dtype=dtype)).item()
        if not rate <= 0.01:
            raise AssertionError(f"p(0) = {rate}, above 0.01")


@at_every_value
@contract_property
def check_covers_unit_interval_claim(schedule: NoiseSchedule) -> None:
    """Where ``covers_unit_interval`` is claimed, p(0) = 0 and p(1) = 1 exactly."""
    if not COVERS_UNIT_INTERVAL.of(schedule):
        return
    for dtype in _DTYPES:
        ends = _rate(schedule, torch.tensor([0.0, 1.0], dtype=dtype)).tolist()
        if ends != [0.0, 1.0]:
            raise AssertionError(f"p(0), p(1) = {ends} in {dtype}; set covers_unit_interval = False if meant")


@at_every_value
@contract_property
def check_monotone(schedule: NoiseSchedule) -> None:
    """p never falls as t grows (beyond rounding)."""
    for dtype in _DTYPES:
        t = _grid(dtype)
        rates = _rate(schedule, t)
        falls = rates.diff() < -_ROUNDING[dtype]
        if falls.any():
            first = int(falls.nonzero()[0])
            pair = [f"p({digits(t[at])}) = {digits(rates[at])}" for at in (first, first + 1)]
            raise AssertionError(f"{pair[0]} but {pair[1]} in {dtype}")


@at_every_value
@contract_property
def check_derivative_not_negative(schedule: NoiseSchedule) -> None:
    """dp/dt >= 0; it may be infinite at the two ends, and nowhere NaN."""
    for dtype in _DTYPES:
        t = _grid(dtype)
        slopes = _slope(schedule, t)
        wrong = ~(slopes >= 0)
        wrong[1:-1] |= slopes[1:-1].isinf()
        if wrong.any():
            raise AssertionError(f"dp/dt({t[wrong][0]:.6g}) = {slopes[wrong][0]:.6g} in {dtype}")


@at_every_value
@contract_property
def check_derivative_matches_rate(schedule: NoiseSchedule) -> None:
    """The derivative is that of the rate, by autograd in float64 inside (0.001, 0.999)."""
    t = _inside()
    expected = _autograd_slope(schedule, t)
    tolerance = 1e-6
    if expected is None:  # a rate that autograd cannot follow, such as a table: central differences instead
        h = 1e-6
        expected = (_rate(schedule, t + h) - _rate(schedule, t - h)) / (2 * h)
        tolerance = 1e-4
    actual = _slope(schedule, t)
    wrong = ~torch.isclose(actual, expected, rtol=tolerance, atol=tolerance)
    # A corner of a piecewise schedule may fall next to single points; a wrong formula is wrong in many.
    if wrong.sum() > 8:
        first = int(wrong.nonzero()[0])
        raise AssertionError(f"dp/dt({t[first]:.6g}) = {actual[first]:.6g}, but p rises by {expected[first]:.6g} there")


@at_every_value
@contract_property
def check_rises_by_its_derivative(schedule: NoiseSchedule) -> None:
    """From point to point the rate rises by what its derivative adds up to: it has no jumps."""
    t = torch.linspace(0.001, 0.999, 8192, dtype=torch.float64)
    rise, slope = _rate(schedule, t).diff(), _slope(schedule, t)
    missed = (rise - (slope[1:] + slope[:-1]) / 2 * t.diff()).abs()
    if (missed > 0.01).any():
        first = int(missed.argmax())
        raise AssertionError(
            f"p rises by {rise[first]:.6g} at once near t = {t[first]:.6g}, dp/dt is {slope[first]:.6g}"
        )


def _autograd_slope(schedule: NoiseSchedule, t: Tensor) -> Tensor | None:
    t = t.clone().requires_grad_()
    rate = _rate(schedule, t)
    return torch.autograd.grad(rate.sum(), t)[0] if rate.requires_grad else None


@at_every_value
@contract_property
def check_float32_is_accurate(schedule: NoiseSchedule) -> None:
    """float32 gives what float64 gives to 1e-3 (relative) inside (0.001, 0.999): nothing cancels or saturates."""
    t = _inside().float()
    for name, function in _FUNCTIONS.items():
        actual, expected = function(schedule, t).double(), function(schedule, t.double())
        wrong = ~torch.isclose(actual, expected, rtol=1e-3, atol=1e-6)
        if wrong.any():
            where = f"{name}({t[wrong][0]:.6g}) = {actual[wrong][0]:.8g}"
            raise AssertionError(f"{where} in float32, {expected[wrong][0]:.8g} in float64")


@at_every_value
@contract_property
def check_elementwise(schedule: NoiseSchedule) -> None:
    """Any shape, also empty; every element as if it were alone; float32 stays float32 and float64 stays float64."""

    def body(times: list[float]) -> None:
        for name, function in _FUNCTIONS.items():
            t = torch.tensor(times)
            alone = [function(schedule, t[i]) for i in range(len(times))]
            require_close(
                function(schedule, t), torch.stack(alone), f"{name} of {describe(t)} depends on the other elements"
            )

    for_all(st.lists(st.floats(0.015625, 0.984375, width=32), min_size=1, max_size=4), body)
    for shape in _SHAPES:
        for dtype in _DTYPES:
            t = torch.full(shape, 0.5, dtype=dtype)
            for name, function in _FUNCTIONS.items():
                require_tensor(function(schedule, t), f"{name} of {tuple(shape)}", t.shape, dtype)


@at_every_value
@contract_property
def check_pure(schedule: NoiseSchedule) -> None:
    """Same answer every time, input untouched, no random numbers."""
    for function in _FUNCTIONS.values():
        require_pure(functools.partial(function, schedule), _grid(torch.float32))


@at_every_value
@contract_property
def check_device_kept(schedule: NoiseSchedule) -> None:
    """The result is where the input is."""
    t = torch.empty(2, 3, device="meta")
    for function in _FUNCTIONS.values():
        require_device_kept(functools.partial(function, schedule, t))


PROPERTIES = (
    check_rate_in_unit_interval,
    check_starts_clean,
    check_covers_unit_interval_claim,
    check_monotone,
    check_derivative_not_negative,
    check_derivative_matches_rate,
    check_rises_by_its_derivative,
    check_float32_is_accurate,
    check_elementwise,
    check_pure,
    check_device_kept,
)
