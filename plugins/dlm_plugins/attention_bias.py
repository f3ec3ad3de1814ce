"""Contract of an attention bias: who may see whom."""

from collections.abc import Callable
from typing import Protocol, TypeAlias, runtime_checkable

import attrs
from torch import Tensor

from dlm_plugins.claims import Claim

MaskFunction: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""f(batch, head, query, key) -> bool, transformers' convention: the arguments are int64 index tensors that broadcast
against each other, the result says which keys each query sees. Elementwise tensor operations only, no ``if``."""

PREFIX_IS_STATIC = Claim(
    "prefix_is_static",
    False,
    "What prompt positions see never includes an answer position, so that the prompt's keys and values can be computed "
    "once and reused exactly.",
)
BLOCKS_ARE_INDEPENDENT = Claim(
    "blocks_are_independent",
    False,
    "An answer block sees the prompt and itself, no other block, so that blocks can be decoded side by side exactly.",
)
NEEDS_CLEAN_COPY = Claim(
    "needs_clean_copy",
    False,
    "Training runs on [noisy | clean], so that noisy blocks can see clean ones (block diffusion).",
)


@attrs.frozen(kw_only=True, eq=False)
class SequenceLayout:
    """What stands where in a batch. All tensors are (B, L); an index of the mask function points into them."""

    position: Tensor
    """int64: position within the document, from 0. Both copies of a [noisy | clean] row carry the same positions."""
    block: Tensor
    """int64: (position - answer start) // block_length; -1 in the prompt. Pre-training has no prompt: the answer
    starts with the document."""
    document: Tensor
    """int64: number of the document in its row; -1 on padding. The core isolates documents and hides padding itself."""
    is_clean: Tensor
    """bool: True in the clean half of a [noisy | clean] row, and at committed blocks and the prompt in sampling."""


@runtime_checkable
class AttentionBias(Protocol):
    """A rule of visibility, the same in training and in sampling.

    A bias that differs from layer to layer also has ``for_layer(index: int) -> AttentionBias``; without that method
    every layer uses the bias itself.
    """

    def mask_function(self, layout: SequenceLayout) -> MaskFunction | None:
        """The visibility rule over ``layout``; None when everybody sees everybody."""
        ...


@runtime_checkable
class LayeredAttentionBias(AttentionBias, Protocol):
    """An attention bias that differs by layer."""

    def for_layer(self, index: int) -> AttentionBias:
        """The bias of decoder layer ``index``, from 0."""
        ...


def bias_of_layer(bias: AttentionBias, index: int) -> AttentionBias:
    """The bias that layer ``index`` uses: ``bias`` itself unless it says otherwise."""
    return bias.for_layer(index) if isinstance(bias, LayeredAttentionBias) else bias
