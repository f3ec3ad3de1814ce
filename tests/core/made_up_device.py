"""A device that is made up: it computes as the CPU does, and refuses what CUDA refuses between host and device.

A tensor of it holds one of the host, and says that it is elsewhere. Its process keeps the device, once it is made.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = "madeup"
COPIES = ("aten::_to_copy", "aten::copy_")
INDEXING = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index")
SCALES = ("aten::masked_fill", "aten::masked_fill_", "aten::where", "aten::lerp", "aten::_foreach")
"""What takes a number of the host in a tensor, beside what is marked as elementwise."""


class DeviceTensor(Tensor):
    """A tensor of the device; ``held`` has its values."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "DeviceTensor":
        return torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=torch.device(NAME, 0),
        )

    def __init__(self, held: Tensor) -> None:
        self.held = held

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def tolist(self) -> Any:
        return self.held.tolist()  # torch knows no list of a subclass; it would copy to the host as well

    def __format__(self, specification: str) -> str:
        return format(self.held, specification)

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"{NAME}({self.held!r})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return computed(function, args, kwargs or {})


class MadeUpDevice(TorchDispatchMode):
    """Where fresh tensors may be asked for on the device."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(function, args, kwargs or {})


def computed(function: Any, args: Any, kwargs: Any) -> Any:
    """The result of an operation, where its tensors are."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    on_device = [tensor for tensor in tensors if isinstance(tensor, DeviceTensor)]
    name = function._schema.name
    asked = kwargs.get("device")
    is_asked = asked is not None and torch.device(asked).type == NAME
    if not on_device and not is_asked:
        return function(*args, **kwargs)
    if len(on_device) < len(tensors):
        check_places(function, args, kwargs)
    if is_asked and kwargs.get("pin_memory"):
        raise RuntimeError("Only dense CPU tensors can be pinned")
    if kwargs.get("generator") is not None:
        raise RuntimeError(f"Expected a {NAME!r} device type for generator but found 'cpu'")
    goes_to_host = asked is not None and not is_asked
    if asked is not None:
        kwargs = {**kwargs, "device": "cpu"}
    if name == "aten::copy_" and not isinstance(args[0], DeviceTensor):
        args[0].copy_(args[1].held)
        return args[0]
    result = function(*tree_map(host, args), **tree_map(host, kwargs))
    if name == "aten::_to_copy" and asked is not None and any(result is host(tensor) for tensor in tensors):
        result = result.clone()
    known = {id(tensor.held): tensor for tensor in on_device}
    if goes_to_host:
        return result

    def placed(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return known[id(value)] if id(value) in known else DeviceTensor(value)

    return tree_map(placed, result)


def host(value: Any) -> Any:
    return value.held if isinstance(value, DeviceTensor) else value


def check_places(function: Any, args: Any, kwargs: Any) -> None:
    """Tensors of both places meet as they may on CUDA, or that is an error."""
    name = function._schema.name
    if name in COPIES:
        return
    target = args[0] if args else None
    if isinstance(target, Tensor) and not isinstance(target, DeviceTensor) and function._schema.is_mutable:
        refuse(name, args, kwargs)
    if name in INDEXING:
        values = args[2:3] if len(args) > 2 else ()
        strangers = [
            each for each in (args[0], *values) if is_on_host(each) and not (each is not args[0] and is_number(each))
        ]
        if strangers:
            refuse(name, args, kwargs)
        return
    takes_numbers = torch.Tag.pointwise in function.tags or name.startswith(SCALES)
    for leaf in tree_leaves((args, kwargs)):
        if is_on_host(leaf) and not (takes_numbers and is_number(leaf)):
            refuse(name, args, kwargs)


def is_on_host(value: Any) -> bool:
    return isinstance(value, Tensor) and not isinstance(value, DeviceTensor)


def is_number(value: Tensor) -> bool:
    return value.dim() == 0


def refuse(name: str, args: Any, kwargs: Any) -> None:
    places = ", ".join(
        f"{tuple(leaf.shape)} on {leaf.device}" for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)
    )
    raise RuntimeError(f"Expected all tensors to be on the same device: {name} of {places}")


def make_device() -> torch.device:
    """Register the device."""
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    _setup_privateuseone_for_python_backend(NAME)
    module = getattr(torch, NAME)
    module.get_rng_state, module.set_rng_state = (lambda _: torch.get_rng_state()), (lambda state, _: None)
    module.get_amp_supported_dtype = lambda: [torch.bfloat16]
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor() copies to the device where a mode sees it
    return torch.device(NAME, 0)
