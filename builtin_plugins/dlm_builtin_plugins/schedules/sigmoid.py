"""Sigmoid noise schedule, p(t) from a piece of the logistic curve: more time near both ends (Muse, Show-o)."""

import math

import attrs
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from dlm_builtin_plugins.schedules.uniform import widened


def _after_start(instance: "SigmoidSchedule", attribute: "attrs.Attribute[float]", value: float) -> None:
    if not value > instance.start:
        raise ValueError(f"'end' must be greater than 'start', {instance.start}: {value}")


@attrs.frozen(kw_only=True)
class SigmoidSchedule:
    """A piece of the logistic curve S, stretched to the unit interval: more time near both ends (Muse, Show-o).

    p(t) = (S(e) - S(x)) / (S(e) - S(s)) with s = start / tau, e = end / tau and x = e - (e - s) t; Jabri et al. 2023,
    arXiv:2212.11972, with time counted from clean to masked.
    """

    start: float = attrs.field(
        default=-3.0,
        validator=attrs.validators.instance_of((int, float)),
        metadata={"help": "Where on the logistic curve t = 1 lies."},
    )
    end: float = attrs.field(
        default=3.0,
        validator=_after_start,
        metadata={"help": "Where on the logistic curve t = 0 lies; greater than start."},
    )
    tau: float = attrs.field(
        default=1.0,
        validator=attrs.validators.gt(0),
        metadata={"help": "Temperature, greater than 0: small values give a steep step, large ones a straight line."},
    )

    # The difference of two logistic values cancels where the curve is flat. As a product it does not:
    #     S(a) - S(b) = S(a) S(-b) (1 - exp(b - a))
    # and the products are sums of log S, which neither overflow nor saturate.

    def mask_rate(self, t: Tensor) -> Tensor:
        """p(t), elementwise, with p(0) = 0 and p(1) = 1 exactly."""
        t = widened(t)
        start, width = self._start_and_width(t)
        x = start + (1 - t) * width
        ratio = torch.exp(logsigmoid(-x) - logsigmoid(-start))
        rate = ratio * torch.expm1(-t * width) / math.expm1(-width)
        return torch.where(t >= 1, 1.0, rate).clamp(max=1.0)

    def mask_rate_derivative(self, t: Tensor) -> Tensor:
        """dp/dt = (e - s) S(x) S(-x) / (S(e) - S(s))."""
        t = widened(t)
        start, width = self._start_and_width(t)
        x = start + (1 - t) * width
        log_ratio = logsigmoid(x) + logsigmoid(-x) - logsigmoid(start + width) - logsigmoid(-start)
        return torch.exp(log_ratio) * (width / -math.expm1(-width))

    def _start_and_width(self, t: Tensor) -> tuple[Tensor, float]:
        return t.new_tensor(self.start / self.tau), (self.end - self.start) / self.tau
