"""Attention masks that differ from layer to layer, for any decoder.

The decoders of transformers hand one mask to all layers, and pass what else they are called with on to the attention
modules. So the masks of all layers arrive there, and each module takes its own by ``layer_idx``; a layer that hides
nothing gets none. The masks belong to the call and not to the model, so that a layer that is computed again for
gradient checkpointing takes the same one.
"""

import inspect
from collections.abc import Sequence
from typing import Any

from torch import nn

from dlm.errors import ModelError
from dlm.model.masks import AttentionMask

_ARGUMENT = "dlm_layer_masks"
_IS_HOOKED = "_dlm_takes_layer_masks"


def _take_own(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Replace the masks of all layers by the one of this layer (a forward pre-hook)."""
    if _ARGUMENT not in kwargs:
        return None
    own = {**kwargs}
    masks = own.pop(_ARGUMENT)
    return args, {**own, "attention_mask": masks[int(module.layer_idx)]}  # type: ignore[arg-type]


def attention_modules(body: nn.Module) -> list[nn.Module]:
    """The modules of ``body`` that know their layer and take an attention mask, in order."""
    return [
        module
        for module in body.modules()
        if isinstance(getattr(module, "layer_idx", None), int)
        and "attention_mask" in inspect.signature(module.forward).parameters
    ]


def mask_arguments(body: nn.Module, masks: Sequence[AttentionMask | None]) -> dict[str, Any]:
    """The arguments of a forward pass of ``body`` under one mask for all layers, or under one for each.

    Args:
        body: A decoder body (``dlm.model.body_and_head.split``).
        masks: One mask for all layers, or as many as there are layers; None: everybody sees everybody. Layers that
            share a mask should hold the same object.

    Raises:
        ModelError: The number of masks is not that of the layers, or the layers of this model cannot be told apart.
    """
    if len(masks) == 1:
        return {"attention_mask": masks[0]}
    _prepare(body, len(masks))
    first = next((mask for mask in masks if mask is not None), None)
    if all(mask is first for mask in masks):
        return {"attention_mask": first}
    # The body sees one of them, so that it makes none of its own.
    return {"attention_mask": first, _ARGUMENT: tuple(masks)}


def _prepare(body: nn.Module, num_masks: int) -> None:
    """Check that each layer can take a mask of its own, and hook its attention the first time."""
    modules = attention_modules(body)
    layers = {int(module.layer_idx) for module in modules}  # type: ignore[arg-type]
    if layers != set(range(num_masks)):
        raise ModelError(
            f"{type(body).__name__}: {num_masks} layer masks for {len(layers)} attention layers that know their number"
        )
    if getattr(body, _IS_HOOKED, False):
        return
    if not _passes_on(body):
        raise ModelError(f"{type(body).__name__} does not pass arguments on to its layers: all have the same attention")
    for module in modules:
        module.register_forward_pre_hook(_take_own, with_kwargs=True)
    setattr(body, _IS_HOOKED, True)


def _passes_on(body: nn.Module) -> bool:
    parameters = inspect.signature(body.forward).parameters.values()
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
