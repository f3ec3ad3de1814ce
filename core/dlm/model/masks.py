"""Attention mask conversion: from "who sees whom" and padding to what sdpa or eager attention wants.

Inside `dlm` visibility is boolean, (B, Q, K), True where a query sees a key. The backends differ: sdpa takes a boolean
mask, eager adds the mask to the scores and would silently treat a boolean one as "everything is visible".
"""

from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from dlm.errors import ModelError

# B rows, Q queries, K keys, D masks of different layers.

AttentionMask: TypeAlias = Tensor | BlockMask
"""(B, 1, Q, K): bool or additive; or, for flex_attention, a BlockMask of that shape."""

_ALIGNMENT = 16
"""Elements of a row of a mask, of which memory-efficient attention wants a multiple."""
MASKED_IMPLEMENTATIONS = ("sdpa", "eager")
"""Attention implementations that can follow an arbitrary mask here. Flash attention only runs without one."""


def attention_mask_for(visible: Tensor | None, *, implementation: str, dtype: torch.dtype) -> Tensor | None:
    """Convert visibility to a mask for ``implementation``.

    Args:
        visible: (B, Q, K) bool, True where a query sees a key; None: everybody sees everybody.
        implementation: Attention implementation of the model, ``config._attn_implementation``.
        dtype: Floating dtype of the attention scores (the model's), for additive masks.

    Returns:
        None for None; (B, 1, Q, K) bool for sdpa; (B, 1, Q, K) of ``dtype`` for eager, 0 where visible and the
        smallest finite number where not. (-inf would turn a row without a visible key into NaN.) A query that would
        see nothing sees everything: nobody reads what comes out there, but it has to be finite.

    Raises:
        ModelError: ``visible`` is not (B, Q, K) bool, or the implementation cannot follow a mask.
    """
    if visible is None:
        return None
    if visible.ndim != 3 or visible.dtype != torch.bool:
        raise ModelError(f"visibility must be (B, Q, K) bool, not {tuple(visible.shape)} {visible.dtype}")
    repaired = visible | ~visible.any(dim=-1, keepdim=True)
    return boolean_mask_for(repaired[:, None], implementation=implementation, dtype=dtype)


def boolean_mask_for(mask: Tensor, *, implementation: str, dtype: torch.dtype) -> Tensor:
    """A four-dimensional boolean mask in the form ``implementation`` takes.

    Raises:
        ModelError: The implementation cannot follow a mask.
    """
    if implementation == "sdpa":
        return mask
    if implementation == "eager":
        hidden = torch.full((), torch.finfo(dtype).min, dtype=dtype, device=mask.device)
        return torch.where(mask, torch.zeros_like(hidden), hidden)
    raise ModelError(
        f"attention implementation {implementation!r} cannot follow an attention mask; choose one of "
        f"{', '.join(MASKED_IMPLEMENTATIONS)} (flash attention runs only where nothing but padding is hidden)"
    )


def additive_mask_for(visible: Tensor | None, implementation: str, dtype: torch.dtype) -> Tensor | None:
    """The additive form of :func:`attention_mask_for`, for one mask that all layers share.

    sdpa makes an additive mask of a boolean one in every layer, and each layer keeps its own for the backward pass.

    Args:
        visible: (B, Q, K) bool; None: everybody sees everybody.
        implementation: As in ``attention_mask_for``.
        dtype: Of the attention scores: sdpa would convert another one in every layer.

    Returns:
        None for None; (B, 1, Q, K) of ``dtype``: 0 where visible, and -inf where not, the smallest finite number for
        eager.
    """
    mask = attention_mask_for(visible, implementation=implementation, dtype=dtype)
    if mask is None or mask.dtype != torch.bool:
        return mask
    num_keys = mask.shape[-1]
    if mask.device.type != "cpu" and num_keys % _ALIGNMENT:
        # Rows of another stride would be copied by the kernels, once a layer.
        mask = torch.nn.functional.pad(mask, (0, -num_keys % _ALIGNMENT))
    zero = torch.zeros((), dtype=dtype, device=mask.device)
    return torch.where(mask, zero, -torch.inf)[..., :num_keys]


def visible_from_additive(bias: Tensor) -> Tensor:
    """Visibility (B, Q, K) of an additive bias.

    Args:
        bias: (B, 1, Q, K) floating; 0 where a query sees a key, -inf (or the smallest finite number) where not.

    Raises:
        ModelError: Another shape or dtype, or values other than these.
    """
    if bias.ndim != 4 or bias.shape[1] != 1 or not bias.is_floating_point():
        raise ModelError(
            f"attention_bias must be (B, 1, Q, K) floating, 0 where visible and -inf where hidden, "
            f"not {tuple(bias.shape)} {bias.dtype}"
        )
    visible = bias == 0
    hidden = bias <= torch.finfo(bias.dtype).min
    # The check reads values, which a compiled graph cannot.
    if not torch.compiler.is_compiling() and not bool((visible | hidden).all()):
        raise ModelError("attention_bias may hold only 0 (visible) and -inf (hidden)")
    return visible[:, 0]


def visible_with_padding(visible: Tensor | None, padding_mask: Tensor, *, num_queries: int) -> Tensor:
    """Hide the padding too.

    Args:
        visible: (B, Q, K) bool, or None: everybody sees everybody.
        padding_mask: (B, K), True or non-zero at real tokens.
        num_queries: Q, used where ``visible`` is None.

    Returns:
        (B, Q, K) bool. Rows of padded queries are left as they are: nobody sees what comes out there.
    """
    real = padding_mask.bool()[:, None, :]  # (B, 1, K)
    return real.expand(-1, num_queries, -1) if visible is None else visible & real


def model_attention_mask(
    attention_mask: AttentionMask | None, attention_bias: Tensor | None, *, implementation: str, dtype: torch.dtype
) -> AttentionMask | None:
    """What a Qwen3 body gets for the two arguments of a user.

    Args:
        attention_mask: (B, K) padding mask, a four-dimensional mask (B, 1, Q, K): bool, or additive; or a
            BlockMask.
        attention_bias: (B, 1, Q, K) additive, 0 visible and -inf hidden.
        implementation: As in ``attention_mask_for``.
        dtype: As in ``attention_mask_for``.

    Returns:
        A (B, K) padding mask as it came (transformers drops it where nothing is padded), a four-dimensional mask, a
        BlockMask as it came, or None.

    Raises:
        ModelError: A mask of another rank, or both arguments four-dimensional.
    """
    if isinstance(attention_mask, BlockMask):
        if attention_bias is not None:
            raise ModelError("attention_bias: a BlockMask says it all; give one of the two")
        return attention_mask
    if attention_mask is not None and attention_mask.ndim not in (2, 4):
        raise ModelError(
            f"attention_mask must be (B, K) with 1 at real tokens, or (B, 1, Q, K), not {tuple(attention_mask.shape)}"
        )
    if attention_bias is None:
        if attention_mask is not None and attention_mask.ndim == 4 and attention_mask.dtype == torch.bool:
            return boolean_mask_for(attention_mask, implementation=implementation, dtype=dtype)
        return attention_mask
    visible = visible_from_additive(attention_bias)
    if attention_mask is not None:
        if attention_mask.ndim == 4:
            raise ModelError("attention_mask: give the padding mask (B, K) beside an attention_bias, not a second bias")
        visible = visible_with_padding(visible, attention_mask, num_queries=visible.shape[1])
    return attention_mask_for(visible, implementation=implementation, dtype=dtype)
