"""Clipped schedule."""

import attrs
import torch
from torch import Tensor


@attrs.frozen(kw_only=True)
class ClippedSchedule:
    """Mask rates uniform in [low, high]: no step is spent on rows that are almost all mask.

    After the clipped schedules of Arriola et al. 2025, "Block Diffusion", arXiv:2503.09573, section 5.3: gradients of
    extreme mask rates vary most and teach least. The lower end stays near 0, where a schedule has to start.
    """

    low: float = attrs.field(
        default=0.001,
        validator=[attrs.validators.ge(0), attrs.validators.le(0.01)],
        metadata={"help": "Lowest mask rate, in [0, 0.01]."},
    )
    high: float = attrs.field(
        default=0.8,
        validator=[attrs.validators.gt(0.01), attrs.validators.le(1)],
        metadata={"help": "Highest mask rate, in (0.01, 1]."},
    )

    @property
    def covers_unit_interval(self) -> bool:
        """True only where nothing is clipped."""
        return self.low == 0 and self.high == 1

    def mask_rate(self, t: Tensor) -> Tensor:
        """A straight line from low to high."""
        return torch.lerp(torch.full_like(_widened(t), self.low), torch.full_like(_widened(t), self.high), _widened(t))

    def mask_rate_derivative(self, t: Tensor) -> Tensor:
        """Its slope."""
        return torch.full_like(_widened(t), self.high - self.low)


def _widened(t: Tensor) -> Tensor:
    return t if t.dtype == torch.float64 else t.float()
