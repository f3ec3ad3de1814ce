"""Attention masks that differ from layer to layer, for any decoder.

The decoders of transformers hand one mask to all layers. The masks of the layers therefore travel stacked along the
head axis, (B, D, Q, K) for D different ones, and each attention module takes its own by ``layer_idx``. The masks belong
to the call and not to the model, so that a layer that is computed again for gradient checkpointing takes the same one.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dlm.errors import ModelError

# B rows, Q queries, K keys, D different masks.

_SELECTION = "_dlm_layer_mask_selection"


class _Selection:
    """Which of the stacked masks each layer takes, and the hook that takes it."""

    def __init__(self) -> None:
        self.mask_of_layer: tuple[int, ...] = ()
        self.num_masks = 1

    def select(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Replace the stacked masks by the one of this layer (a forward pre-hook)."""
        mask = kwargs.get("attention_mask")
        # Anything else is the ordinary mask of all layers, which may come from another call on the same model.
        if not isinstance(mask, Tensor) or mask.ndim != 4 or mask.shape[1] == 1:
            return None
        if mask.shape[1] != self.num_masks:
            raise ModelError(f"attention_mask has {mask.shape[1]} masks in axis 1, but {self.num_masks} were stacked")
        index = self.mask_of_layer[int(module.layer_idx)]  # type: ignore[arg-type]
        return args, {**kwargs, "attention_mask": mask[:, index : index + 1]}


def attention_modules(body: nn.Module) -> list[nn.Module]:
    """The modules of ``body`` that know their layer and take an attention mask, in order."""
    return [
        module
        for module in body.modules()
        if isinstance(getattr(module, "layer_idx", None), int)
        and "attention_mask" in inspect.signature(module.forward).parameters
    ]


def _selection_of(body: nn.Module) -> _Selection:
    """The selection of ``body``; hooks its attention modules the first time."""
    selection = getattr(body, _SELECTION, None)
    if selection is None:
        selection = _Selection()
        for module in attention_modules(body):
            module.register_forward_pre_hook(selection.select, with_kwargs=True)
        setattr(body, _SELECTION, selection)
    return selection


def stack_layer_masks(body: nn.Module, masks: Sequence[Tensor | None]) -> Tensor | None:
    """Make one attention mask of those of all layers, and let the layers of ``body`` take theirs from it.

    Args:
        body: A decoder body (``dlm.model.body_and_head.split``).
        masks: One mask for each layer, (B, 1, Q, K) from ``attention_mask_for``; None: everybody sees everybody. Layers
            that share a mask should hold the same object: it is stored once.

    Returns:
        What to pass as ``attention_mask`` to ``body``: (B, D, Q, K), or None where no layer hides anything. Call this
        anew for every forward pass.

    Raises:
        ModelError: The number of masks is not that of the layers, or the layers of this model cannot be told apart.
    """
    layers = {int(module.layer_idx) for module in attention_modules(body)}  # type: ignore[arg-type]
    if layers != set(range(len(masks))) or not masks:
        raise ModelError(
            f"{type(body).__name__}: {len(masks)} layer masks for {len(layers)} attention layers that know their number"
        )
    distinct = {id(mask): mask for mask in masks}
    given = [mask for mask in distinct.values() if mask is not None]
    if not given:
        return None
    selection = _selection_of(body)
    order = list(distinct)
    selection.mask_of_layer = tuple(order.index(id(mask)) for mask in masks)
    selection.num_masks = len(order)
    if len(order) == 1:
        return given[0]
    example = given[0]
    everything = torch.ones_like(example) if example.dtype == torch.bool else torch.zeros_like(example)
    return torch.cat([everything if mask is None else mask for mask in distinct.values()], dim=1)
