"""Contract of an attention bias: who may see whom."""

from collections.abc import Callable
from typing import Protocol, TypeAlias, runtime_checkable

import attrs
from torch import Tensor

from dlm_plugins.claims import Claim
from dlm_plugins.draws import Draws

MaskFunction: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""f(batch, head, query, key) -> bool, transformers' convention: the arguments are int64 index tensors that broadcast
against each other, the result, a bool tensor of their common shape, says which keys each query sees. Elementwise tensor
operations only, no ``if``."""

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
    """What stands where in a batch of B rows and L positions: an index of the mask function points into these tensors.

    On padding only ``document`` has a meaning. The core hides padding itself, and isolates documents where the run file
    asks for it.
    """

    position: Tensor
    """(B, L) int64: position within the document, from 0. Both halves of a [noisy | clean] row carry the same."""
    block: Tensor
    """(B, L) int64: (position - answer start) // block_length, from 0; -1 in the prompt. Pre-training has no prompt:
    the answer starts with the document. Both halves of a [noisy | clean] row carry the same."""
    document: Tensor
    """(B, L) int64: number of the document in its row, from 0; -1 on padding."""
    is_clean: Tensor
    """(B, L) bool: in training, the whole clean half of a [noisy | clean] row, or the prompt where there is one copy
    only; in sampling, the prompt and the blocks before the active one."""
    progress: float = 1.0
    """In [0, 1]: the global step over the steps of the run, in training; 1 in evaluation and sampling."""
    draws: Draws | None = None
    """Where progress is less than 1, for biases that change: the only source of randomness, B rows of L positions."""


@runtime_checkable
class AttentionBias(Protocol):
    """A rule of visibility, the same in training and in sampling.

    A bias that differs from layer to layer also has ``for_layer(index: int) -> AttentionBias``; without that method
    every layer uses the bias itself. One that changes during training has ``at_end() -> AttentionBias``.
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


@runtime_checkable
class ChangingAttentionBias(AttentionBias, Protocol):
    """An attention bias that changes during training, with ``layout.progress``. Its claims hold all the while."""

    def at_end(self) -> AttentionBias:
        """The bias that is left at progress 1, which changes no more: it is stored with the model and sampled with."""
        ...


def bias_of_layer(bias: AttentionBias, index: int) -> AttentionBias:
    """The bias that layer ``index`` uses: ``bias`` itself unless it says otherwise."""
    return bias.for_layer(index) if isinstance(bias, LayeredAttentionBias) else bias


def blocks_are_separate(bias: AttentionBias) -> bool:
    """Whether no noisy block sees another noisy one: blocks are independent, or see each other as a clean copy."""
    return BLOCKS_ARE_INDEPENDENT.of(bias) or NEEDS_CLEAN_COPY.of(bias)


def bias_at_end(bias: AttentionBias) -> AttentionBias:
    """The bias that training ends with: ``bias`` itself unless it says otherwise."""
    return bias.at_end() if isinstance(bias, ChangingAttentionBias) else bias
