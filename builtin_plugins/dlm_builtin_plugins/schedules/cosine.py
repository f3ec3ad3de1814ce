"""Cosine noise schedule, p(t) = sin(pi t / 2): the mask rate of MaskGIT, more time at high rates."""

import math

import attrs
import torch
from torch import Tensor

from dlm_builtin_plugins.schedules.uniform import widened


@attrs.frozen(kw_only=True)
class CosineSchedule:
    """p = sin(pi t / 2): more time at high mask rates, 0.64 on average (MaskGIT).

    Chang et al. 2022, arXiv:2202.04200, whose cosine counts time from masked to clean.
    """

    def mask_rate(self, t: Tensor) -> Tensor:
        """p(t), elementwise."""
        return torch.sin(widened(t) * (math.pi / 2))

    def mask_rate_derivative(self, t: Tensor) -> Tensor:
        """dp/dt = (pi / 2) cos(pi t / 2), written so that it ends at exactly 0."""
        return torch.sin((1 - widened(t)) * (math.pi / 2)) * (math.pi / 2)
