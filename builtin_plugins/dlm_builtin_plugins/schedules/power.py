"""Power noise schedule, p(t) = 1 - (1 - t)^exponent: which mask rates get how much time."""

import attrs
import torch
from torch import Tensor

from dlm_builtin_plugins.schedules.uniform import widened


@attrs.frozen(kw_only=True)
class PowerSchedule:
    """p = 1 - (1 - t)^exponent: above 1 more time at high mask rates, below 1 at low ones (MaskGIT).

    Chang et al. 2022, arXiv:2202.04200, section on masking design, with time counted from clean to masked.
    """

    exponent: float = attrs.field(
        default=2.0,
        validator=attrs.validators.gt(0),
        metadata={"help": "Greater than 0; 1 is the uniform schedule without clipping."},
    )

    def mask_rate(self, t: Tensor) -> Tensor:
        """p(t), elementwise; accurate for small t, where subtracting from 1 would lose all digits."""
        return -torch.expm1(self.exponent * torch.log1p(-widened(t)))

    def mask_rate_derivative(self, t: Tensor) -> Tensor:
        """dp/dt = exponent (1 - t)^(exponent - 1); infinite at t = 1 for exponents below 1."""
        return self.exponent * (1 - widened(t)) ** (self.exponent - 1)
