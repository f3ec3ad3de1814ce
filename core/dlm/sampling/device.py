"""On which device and in which dtype a model is sampled from."""

import torch

from dlm.errors import UserInputError


def choose_device(name: str | None) -> torch.device:
    """A device by name; None: the accelerator, if there is one, else the CPU.

    Raises:
        UserInputError: no such device here.
    """
    if name is None:
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise UserInputError(f"device {name!r} cannot be used here: {reason}") from error


def dtype_named(name: str | None) -> torch.dtype | None:
    """A floating dtype of torch by name.

    Raises:
        UserInputError: no such dtype.
    """
    if name is None:
        return None
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise UserInputError(f"unknown dtype {name!r}; use float32, bfloat16, float16 or float64")
    return dtype
