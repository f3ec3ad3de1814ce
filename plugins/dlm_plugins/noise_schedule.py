"""Contract of a noise schedule: the mask rate p(t) as a function of diffusion time, and its derivative."""

from typing import Protocol, runtime_checkable

from torch import Tensor

from dlm_plugins.claims import Claim

COVERS_UNIT_INTERVAL = Claim(
    "covers_unit_interval",
    True,
    "p(0) = 0 and p(1) = 1 exactly; False for clipped schedules. Without it no loss may call itself a bound.",
)


@runtime_checkable
class NoiseSchedule(Protocol):
    """Mask rate p(t) for t in [0, 1]: t = 0 is clean text, t = 1 is all masked.

    Both methods are elementwise on tensors of any shape, keep shape and device, and return float32 (float64 for
    float64 input).
    """

    def mask_rate(self, t: Tensor) -> Tensor:
        """Mask rate p(t) in [0, 1], non-decreasing in t; from 0 to 1 where ``covers_unit_interval`` is claimed."""
        ...

    def mask_rate_derivative(self, t: Tensor) -> Tensor:
        """dp/dt at t, at least 0; it may diverge at t = 0 and t = 1."""
        ...
