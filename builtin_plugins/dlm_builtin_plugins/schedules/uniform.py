"""Uniform (linear) noise schedule: every mask rate equally likely, from eps to 1 (LLaDA) or from low to high."""

import attrs
import torch
from torch import Tensor


@attrs.frozen(kw_only=True)
class UniformSchedule:
    """p = (1 - eps) t + eps: every mask rate is equally likely (LLaDA).

    Nie et al. 2025, arXiv:2502.09992. ``eps`` bounds the weight 1/p by 1/eps; with 0 the schedule covers the whole unit
    interval, as the likelihood bound needs. ``low`` and ``high`` keep to a part of it, p = low + (high - low) ((1 -
    eps) t + eps): dLLM-RL fine-tunes between 0.1 and 0.9.
    """

    eps: float = attrs.field(
        default=1e-3,
        validator=[attrs.validators.ge(0), attrs.validators.le(0.01)],
        metadata={"help": "Mask rate at t = 0, in [0, 0.01], as a share of the range."},
    )
    low: float = attrs.field(
        default=0.0,
        validator=[attrs.validators.ge(0), attrs.validators.lt(1)],
        metadata={"help": "Lower end of the mask rates, in [0, 1)."},
    )
    high: float = attrs.field(
        default=1.0,
        validator=[attrs.validators.gt(0), attrs.validators.le(1)],
        metadata={"help": "Upper end of the mask rates, above low."},
    )

    def __attrs_post_init__(self) -> None:
        if self.high <= self.low:
            raise ValueError(f"high ({self.high}) must be above low ({self.low})")

    @property
    def covers_unit_interval(self) -> bool:
        """Only without clipping."""
        return self.eps == 0 and self.low == 0 and self.high == 1

    def mask_rate(self, t: Tensor) -> Tensor:
        """p(t), elementwise."""
        t = widened(t)
        share = t + self.eps * (1 - t)  # in this order p(1) is exactly 1
        return share if (self.low, self.high) == (0, 1) else self.low * (1 - share) + self.high * share

    def mask_rate_derivative(self, t: Tensor) -> Tensor:
        """dp/dt = (high - low) (1 - eps)."""
        return torch.full_like(widened(t), (self.high - self.low) * (1 - self.eps))


def widened(t: Tensor) -> Tensor:
    """Times in the precision that schedules compute mask rates in: float32, or float64 where ``t`` is float64."""
    return t if t.dtype == torch.float64 else t.to(torch.float32)
