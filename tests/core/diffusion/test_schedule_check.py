"""A broken noise schedule is refused before it is trained with, in one line that says where it breaks."""

from collections.abc import Callable

import attrs
import pytest
import torch
from torch import Tensor

from dlm.diffusion.forward_process import refuse_broken_schedule
from dlm.errors import UserInputError
from dlm_plugins.registry import Registry


@attrs.frozen
class Schedule:
    rate: Callable[[Tensor], object]

    def mask_rate(self, t: Tensor) -> object:
        return self.rate(t)


BROKEN = {
    "a number": (lambda t: 0.5, "returns a float, not a tensor"),
    "one rate for all": (lambda t: t.mean(), r"returns \(\) for times of shape"),
    "above one": (lambda t: 2 * t, r"is 1\.\d+ at t = 0\.5\d+, outside \[0, 1\]"),
    "below zero": (lambda t: t - 0.1, r"is -0\.1 at t = 0, outside"),
    "not a number": (lambda t: torch.log(t - 1), "is nan at t = 0"),
    "falling": (lambda t: 1 - (2 * t - 1) ** 2, r"falls behind t = 0\.5"),
}


@pytest.mark.parametrize(("rate", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_broken_schedule_is_refused(rate: Callable[[Tensor], object], reason: str) -> None:
    wanted = f"^training.noise.schedule: acme:odd breaks its contract.*{reason}"
    with pytest.raises(UserInputError, match=wanted) as caught:
        refuse_broken_schedule(Schedule(rate), "acme:odd", "training.noise.schedule")
    assert "`dlm plugins check acme`" in str(caught.value)


def test_the_built_in_schedules_pass() -> None:
    for entry in Registry.discover().entries("noise_schedule"):
        refuse_broken_schedule(entry.cls(), entry.qualified_name, "training.noise.schedule")
