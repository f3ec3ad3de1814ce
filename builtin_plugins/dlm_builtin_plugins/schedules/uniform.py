"""Uniform (linear) noise schedule, p(t) = (1 - eps) t + eps: every mask rate equally likely, as in LLaDA."""

import attrs
import torch
from torch import Tensor


@attrs.frozen(kw_only=True)
class UniformSchedule:
    """p = (1 - eps) t + eps: every mask rate is equally likely (LLaDA).

    Nie et al. 2025, arXiv:2502.09992. ``eps`` bounds the weight 1/p by 1/eps; with 0 the schedule covers the whole unit
    interval, as the likelihood bound needs.
    """

    eps: float = attrs.field(
        default=1e-3,
        validator=[attrs.validators.ge(0), attrs.validators.le(0.01)],
        metadata={"help": "Mask rate at t = 0, in [0, 0.01]."},
    )

    @property
    def covers_unit_interval(self) -> bool:
        """Only without clipping."""
        return self.eps == 0

    def mask_rate(self, t: Tensor) -> Tensor:
        """p(t), elementwise."""
        t = widened(t)
        return t + self.eps * (1 - t)  # in this order p(1) is exactly 1

    def mask_rate_derivative(self, t: Tensor) -> Tensor:
        """dp/dt = 1 - eps."""
        return torch.full_like(widened(t), 1 - self.eps)


def widened(t: Tensor) -> Tensor:
    """Times in the precision that schedules compute mask rates in: float32, or float64 where ``t`` is float64."""
    return t if t.dtype == torch.float64 else t.to(torch.float32)
