"""Components are pure: no randomness but the request's, no change to what they are handed, any device."""

import random
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import attrs
import torch
from torch import Tensor

T = TypeVar("T")


def tensors_of(value: Any) -> Iterator[Tensor]:
    """Every tensor in an attrs object, however deep."""
    if isinstance(value, Tensor):
        yield value
    elif attrs.has(type(value)):
        for field in attrs.fields(type(value)):
            yield from tensors_of(getattr(value, field.name))


def require_pure(answer: Callable[[T], object], request: T) -> None:
    """Raise unless ``answer`` leaves its request and the global generators alone, and repeats itself."""
    before = [tensor.clone() for tensor in tensors_of(request)]
    states = torch.get_rng_state(), random.getstate()
    first = list(tensors_of(answer(request)))
    if not torch.equal(torch.get_rng_state(), states[0]) or random.getstate() != states[1]:
        raise AssertionError("draws from a global random generator instead of the draws it is handed")
    if not all(torch.equal(old, new) for old, new in zip(before, tensors_of(request), strict=True)):
        raise AssertionError("changes the tensors of its request in place")
    again = tensors_of(answer(request))
    if not all(torch.equal(old, new) for old, new in zip(first, again, strict=True)):
        raise AssertionError("answers differently when asked the same again")


def require_device_kept(answer: Callable[[], object]) -> None:
    """Raise unless ``answer``, which works on meta tensors, returns meta tensors.

    The meta device stands for every device that is not the CPU. An operation that needs values cannot run there; such a
    component is not judged here.
    """
    try:
        results = list(tensors_of(answer()))
    except (NotImplementedError, RuntimeError) as error:
        if "device" in str(error) and "meta" in str(error) and "no data" not in str(error):
            raise AssertionError(f"mixes devices: {error}") from error
        return
    if any(tensor.device.type != "meta" for tensor in results):
        raise AssertionError("returns a tensor on another device than its input's")
