"""Which precision noise schedules compute mask rates in: float32, or float64 where time is float64."""

import torch
from torch import Tensor


def widened(t: Tensor) -> Tensor:
    """``t`` as float32, or float64 where it is float64 already."""
    return t if t.dtype == torch.float64 else t.to(torch.float32)
