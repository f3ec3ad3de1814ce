"""Refuse a broken noise schedule (not finite, outside [0, 1], falling) before it is trained with."""

import torch
from torch import Tensor

from dlm.errors import UserInputError
from dlm_plugins import NoiseSchedule

_NUM_TIMES = 257
_ROUNDING = 1e-6


def refuse_broken_schedule(schedule: NoiseSchedule, name: str, key: str) -> None:
    """Try the mask rate at times over [0, 1].

    Args:
        schedule: to be tried.
        name: its qualified name, for the message.
        key: of the run file that selects it.

    Raises:
        UserInputError: it gives no mask rates, or they leave [0, 1] or fall.
    """
    t = torch.linspace(0, 1, _NUM_TIMES)
    reason = _reason(schedule.mask_rate(t), t)
    if reason:
        raise UserInputError(
            f"{key}: {name} breaks its contract: mask_rate {reason}; `dlm plugins check {name.partition(':')[0]}` "
            "shows all that is wrong"
        )


def _reason(rate: object, t: Tensor) -> str | None:
    if not isinstance(rate, Tensor):
        return f"returns a {type(rate).__name__}, not a tensor"
    if rate.shape != t.shape:
        return f"returns {tuple(rate.shape)} for times of shape {tuple(t.shape)}"
    outside = ~((rate >= -_ROUNDING) & (rate <= 1 + _ROUNDING))  # so that NaN is outside
    if bool(outside.any()):
        return f"is {rate[outside][0]:.4g} at t = {t[outside][0]:.4g}, outside [0, 1]"
    falls = rate.diff() < -_ROUNDING
    if bool(falls.any()):
        return f"falls behind t = {t[:-1][falls][0]:.4g}; it must not"
    return None
