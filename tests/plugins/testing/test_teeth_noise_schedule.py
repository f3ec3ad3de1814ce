"""Wrong noise schedules are caught by the property they break."""

from collections.abc import Callable
from typing import ClassVar

import attrs
import pytest
import torch
from torch import Tensor

from dlm_plugins.testing import PROPERTIES, check_component, component_properties
from dlm_plugins.testing.property_tools import property_name


@attrs.frozen(kw_only=True)
class Linear:
    """p = t: what the wrong ones vary."""

    def mask_rate(self, t: Tensor) -> Tensor:
        return t.clone()

    def mask_rate_derivative(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)


@attrs.frozen(kw_only=True)
class Dip(Linear):
    """Not monotone: it dips in the middle."""

    def mask_rate(self, t: Tensor) -> Tensor:
        return t - 0.1 * torch.exp(-(((t - 0.5) / 0.01) ** 2)) * t * (1 - t)


@attrs.frozen(kw_only=True)
class Jumps(Linear):
    """Half of the rise in one place, of which the derivative, right everywhere else, knows nothing."""

    def mask_rate(self, t: Tensor) -> Tensor:
        return torch.where(t < 0.5, t / 2, (1 + t) / 2)

    def mask_rate_derivative(self, t: Tensor) -> Tensor:
        return torch.full_like(t, 0.5)


@attrs.frozen(kw_only=True)
class StartsNoisy(Linear):
    """p(0) = 0.05, and no word of it."""

    def mask_rate(self, t: Tensor) -> Tensor:
        return 0.05 + 0.95 * t


@attrs.frozen(kw_only=True)
class Overshoots(Linear):
    """A quarter of a percent above 1 at the end."""

    covers_unit_interval: ClassVar[bool] = False

    def mask_rate(self, t: Tensor) -> Tensor:
        return t * 1.0025


@attrs.frozen(kw_only=True)
class ClippedWithoutSaying(Linear):
    """p in [0.001, 0.999], but covers_unit_interval is not denied."""

    def mask_rate(self, t: Tensor) -> Tensor:
        return 0.001 + 0.998 * t


@attrs.frozen(kw_only=True)
class HalfDerivative(Linear):
    """p = t^2 with the derivative t."""

    def mask_rate(self, t: Tensor) -> Tensor:
        return t**2

    def mask_rate_derivative(self, t: Tensor) -> Tensor:
        return t.clone()


@attrs.frozen(kw_only=True)
class FallingDerivative(Linear):
    """The derivative of the reversed time: negative."""

    def mask_rate_derivative(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)


@attrs.frozen(kw_only=True)
class RelativeToBatch(Linear):
    """Stretches the batch to its own maximum."""

    def mask_rate(self, t: Tensor) -> Tensor:
        return t / t.max().clamp_min(0.5) if t.numel() else t.clone()


@attrs.frozen(kw_only=True)
class AlwaysFloat64(Linear):
    """Widens float32."""

    def mask_rate(self, t: Tensor) -> Tensor:
        return t.double()


@attrs.frozen(kw_only=True)
class AddsAxis(Linear):
    """Scalars come back as vectors."""

    def mask_rate(self, t: Tensor) -> Tensor:
        return torch.atleast_1d(t).clone()


@attrs.frozen(kw_only=True)
class Cancels(Linear):
    """p = t^2 through a difference of large numbers: nothing is left of it in float32."""

    def mask_rate(self, t: Tensor) -> Tensor:
        return ((1e5 + t**2) - 1e5).clamp(0, 1)

    def mask_rate_derivative(self, t: Tensor) -> Tensor:
        return 2 * t


@attrs.frozen(kw_only=True)
class Jitters(Linear):
    """Draws noise of its own."""

    def mask_rate(self, t: Tensor) -> Tensor:
        return t + 1e-9 * torch.rand_like(t)


@attrs.frozen(kw_only=True)
class InPlace(Linear):
    """Squares the caller's tensor."""

    def mask_rate(self, t: Tensor) -> Tensor:
        return t.mul_(t)


@attrs.frozen(kw_only=True)
class TableOnCpu(Linear):
    """Looks rates up in a table that stays on the CPU."""

    def mask_rate(self, t: Tensor) -> Tensor:
        return t * torch.ones(t.shape[-1] if t.ndim else 1, dtype=t.dtype, device="cpu").reshape(t.shape[-1:])


@attrs.frozen(kw_only=True)
class OneUlpAbove(Linear):
    """The next float32 after 1, at the end."""

    covers_unit_interval: ClassVar[bool] = False

    def mask_rate(self, t: Tensor) -> Tensor:
        return torch.where(t == 1, 1 + torch.finfo(t.dtype).eps, t)


@attrs.frozen(kw_only=True)
class PlainNumber(Linear):
    """Computes with Python's numbers."""

    def mask_rate(self, t: Tensor) -> Tensor:
        return 0.5  # type: ignore[return-value]  # the mistake


WRONG = [
    (Dip, "monotone"),
    (StartsNoisy, "starts_clean"),
    (Overshoots, "rate_in_unit_interval"),
    (OneUlpAbove, "rate_in_unit_interval"),
    (ClippedWithoutSaying, "covers_unit_interval_claim"),
    (HalfDerivative, "derivative_matches_rate"),
    (Jumps, "rises_by_its_derivative"),
    (FallingDerivative, "derivative_not_negative"),
    (RelativeToBatch, "elementwise"),
    (AlwaysFloat64, "elementwise"),
    (AddsAxis, "elementwise"),
    (Cancels, "float32_is_accurate"),
    (Jitters, "pure"),
    (InPlace, "pure"),
    (TableOnCpu, "device_kept"),
]


@pytest.mark.parametrize(("cls", "name"), WRONG, ids=lambda value: getattr(value, "__name__", value))
def test_wrong_schedule_is_caught(refute: Callable[[str, type, str], str], cls: type, name: str) -> None:
    refute("noise_schedule", cls, name)


def test_message_holds_the_first_pair_that_falls(refute: Callable[[str, type, str], str]) -> None:
    assert "p(0.485" in refute("noise_schedule", Dip, "monotone")


def test_message_shows_enough_digits(refute: Callable[[str, type, str], str]) -> None:
    message = refute("noise_schedule", OneUlpAbove, "rate_in_unit_interval")
    assert "p(1.0) = 1.00000012 in torch.float32" in message or "p(1) = 1.00000012 in torch.float32" in message


def test_every_property_says_first_that_a_rate_is_no_tensor() -> None:
    messages = check_component("noise_schedule", PlainNumber)
    unaffected = {"derivative_not_negative", *map(property_name, component_properties.PROPERTIES)}
    expected = [property_name(check) for check in PROPERTIES["noise_schedule"]]
    assert [message.partition(":")[0] for message in messages] == [each for each in expected if each not in unaffected]
    assert all("mask_rate returned a float, not a Tensor" in message for message in messages)


def test_sound_schedule_passes_and_a_wrong_one_fails_by_its_property_only() -> None:
    assert check_component("noise_schedule", Linear) == []
    (message,) = check_component("noise_schedule", StartsNoisy)[:1]
    assert message.startswith("starts_clean: StartsNoisy(): p(0) = 0.05")
