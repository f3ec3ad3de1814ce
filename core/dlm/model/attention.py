"""Which attention kernel runs, and in which form it is told who sees whom: no mask, a BlockMask, or an additive mask.

This is the one place that chooses. Nothing to hide: no mask, so that Flash attention stays available. flex_attention:
a BlockMask made from the rule itself, which skips blocks of 128 x 128 that are all hidden. sdpa and eager: one additive
mask in the dtype of the scores, made once for all layers, so that none of them converts it and keeps its own.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.flex_attention import flex_attention_forward

from dlm.errors import ModelError, UserInputError
from dlm.model.masks import AttentionMask, additive_mask_for
from dlm_plugins import AttentionBias, LayeredAttentionBias, MaskFunction, SequenceLayout

# B rows, L positions, Q queries, K keys.

AUTO, FLEX, SDPA = "auto", "flex_attention", "sdpa"
_MULTIPLE = 128
"""Positions of a block of flex_attention."""
_MIN_HEAD_DIM = 16
"""Of the kernels of flex_attention on GPUs."""
_TRAINS_WITH_FLEX = ("cuda", "xpu")


@attrs.frozen(kw_only=True, eq=False)
class Visibility:
    """Who sees whom among the L positions of a layout. Padding is hidden from all, isolated documents from each other,
    and the rest is the bias's.
    """

    layout: SequenceLayout
    bias: AttentionBias
    isolate_documents: bool
    has_padding: bool
    causal_from: int | None = None
    """Column from which on a copy stands that attends causally, apart from what is before it; None: there is none."""

    def rule(self) -> MaskFunction | None:
        """f(batch, head, query, key) -> bool; None where everybody sees everybody."""
        function, document = self.bias.mask_function(self.layout), self.layout.document
        isolate, has_padding, causal_from = self.isolate_documents, self.has_padding, self.causal_from
        if function is None and not isolate and not has_padding and causal_from is None:
            return None

        def is_visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            key_document = document[batch, key]
            visible = key_document >= 0
            if isolate:
                visible = visible & (document[batch, query] == key_document)
            by_bias = visible if function is None else visible & function(batch, head, query, key)
            if causal_from is None:
                return by_bias
            from_copy, to_copy = query >= causal_from, key >= causal_from
            return (by_bias & ~from_copy & ~to_copy) | (visible & from_copy & to_copy & (key <= query))

        return is_visible

    def dense(self, queries: Tensor | None = None, keys: Tensor | None = None) -> Tensor | None:
        """Which keys each query sees, (B, Q, K) bool; None where everybody sees everybody.

        Args:
            queries: (Q,) int64: positions of the layout; None: all L of them.
            keys: (K,) int64: the same.
        """
        rule = self.rule()
        if rule is None:
            return None
        num_rows, length = self.layout.document.shape
        device = self.layout.document.device
        queries = torch.arange(length, device=device) if queries is None else queries
        keys = torch.arange(length, device=device) if keys is None else keys
        batch = torch.arange(num_rows, device=device)[:, None, None]
        head = torch.zeros((), dtype=torch.long, device=device)
        return rule(batch, head, queries[None, :, None], keys[None, None, :]).expand(num_rows, len(queries), len(keys))

    def mask(self, implementation: str, dtype: torch.dtype) -> AttentionMask | None:
        """The mask that ``implementation`` takes; None where nothing is hidden.

        Args:
            implementation: ``config._attn_implementation`` of the model.
            dtype: of the attention scores.

        Raises:
            ModelError: The implementation cannot follow a mask.
        """
        return self._block_mask() if implementation == FLEX else additive_mask_for(self.dense(), implementation, dtype)

    def of_layers(self, num_layers: int, implementation: str, dtype: torch.dtype) -> list[AttentionMask | None]:
        """One mask for all layers, or one for each where the bias differs by layer; the same rule gives one object."""
        if not isinstance(self.bias, LayeredAttentionBias):
            return [self.mask(implementation, dtype)]
        biases = [self.bias.for_layer(index) for index in range(num_layers)]
        masks = {bias: attrs.evolve(self, bias=bias).mask(implementation, dtype) for bias in dict.fromkeys(biases)}
        return [masks[bias] for bias in biases]

    def _block_mask(self) -> BlockMask | None:
        rule = self.rule()
        if rule is None:
            return None
        document = self.layout.document

        def is_visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            # Padding sees itself: nobody reads what comes out there, but it has to be finite.
            return rule(batch, head, query, key) | ((query == key) & (document[batch, query] < 0))

        num_rows, length = document.shape
        mask: BlockMask = create_block_mask(is_visible, num_rows, None, length, length, device=str(document.device))
        return mask


def choose_implementation(
    wanted: str, model: PreTrainedModel, bias: AttentionBias, *, isolates: bool, device: torch.device
) -> str:
    """The attention implementation for training ``model`` on ``device``.

    Args:
        wanted: what the run file says; ``auto`` takes flex_attention on a GPU where a rule hides something, else what
            the model was loaded with.
        model: as it was loaded.
        bias: who sees whom.
        isolates: whether documents of one row, or copies of it, are hidden from each other.
        device: where it is trained.

    Raises:
        UserInputError: flex_attention where it cannot train.
    """
    reason = _reason_against_flex(model, device)
    if wanted == FLEX and reason is not None:
        raise UserInputError(f"model.attn_implementation: flex_attention {reason}; use auto or sdpa")
    if wanted != AUTO:
        return wanted
    if reason is None and (isolates or _hides(bias, model)):
        return FLEX
    loaded_with: str = model.config._attn_implementation
    return loaded_with


def _hides(bias: AttentionBias, model: PreTrainedModel) -> bool:
    """Whether any layer's rule hides anything, tried on two positions."""
    position = torch.arange(2)[None]
    layout = SequenceLayout(
        position=position, block=position, document=torch.zeros_like(position), is_clean=position < 0
    )
    num_layers = model.config.get_text_config().num_hidden_layers
    visibility = Visibility(layout=layout, bias=bias, isolate_documents=False, has_padding=False)
    if not isinstance(bias, LayeredAttentionBias):
        return visibility.rule() is not None
    return any(attrs.evolve(visibility, bias=bias.for_layer(each)).rule() is not None for each in range(num_layers))


def _reason_against_flex(model: PreTrainedModel, device: torch.device) -> str | None:
    """Why this model cannot be trained with flex_attention there."""
    if device.type not in _TRAINS_WITH_FLEX:
        return f"cannot train on {device.type}: torch has no backward pass for it there"
    if not model._supports_flex_attn:
        return f"is not to be had for {type(model).__name__}"
    config = model.config.get_text_config()
    if getattr(config, "attention_dropout", 0.0):
        return "has no dropout, and this model's attention_dropout is not 0"
    if (getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads) < _MIN_HEAD_DIM:
        return f"needs heads of at least {_MIN_HEAD_DIM} dimensions, and this model's are smaller"
    if find_spec("triton") is None:
        return "needs the package triton, which is not installed"
    return None


def score_dtype(body: torch.nn.Module) -> torch.dtype:
    """The dtype of attention scores in a forward pass of ``body`` from here.

    An additive mask must have it: sdpa on the CPU takes a float32 mask for float64 queries and gives wrong results.
    """
    parameter = next(body.parameters())
    device = parameter.device.type
    # Autocast leaves float64 alone.
    if torch.is_autocast_enabled(device) and parameter.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return parameter.dtype


def padding_of(implementation: str, *, compiles: bool, max_length: int) -> Callable[[int], int]:
    """To which length rows of a length are padded, so that not every length is compiled anew.

    Args:
        implementation: flex_attention: multiples of 128, the size of its blocks.
        compiles: whether the model is compiled: multiples of 128, or ``max_length`` where that is less.
        max_length: of a row, its clean copy included.
    """

    def multiple(length: int) -> int:
        return -(-length // _MULTIPLE) * _MULTIPLE

    if implementation == FLEX:
        return multiple
    if compiles:
        return lambda length: max(length, min(multiple(length), max_length))
    return lambda length: length


def use_attention(model: PreTrainedModel, implementation: str) -> None:
    """Let ``model`` attend with another implementation from now on.

    Raises:
        ModelError: The family has no such implementation.
    """
    try:
        model.set_attn_implementation(implementation)
    except (ValueError, ImportError) as error:
        raise ModelError(f"attn_implementation: {' '.join(str(error).split())}") from error


def for_inference(implementation: str) -> str:
    """The implementation where lengths are many and windows small: flex_attention would be compiled for each."""
    return SDPA if implementation == FLEX else implementation


@contextmanager
def attending_with(body: torch.nn.Module, implementation: str) -> Iterator[None]:
    """Another implementation for the forward passes within."""
    config: Any = body.config
    usual = config._attn_implementation
    config._attn_implementation = implementation
    try:
        yield
    finally:
        config._attn_implementation = usual


def _same_dtype_flex_attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """transformers' flex_attention, also under autocast.

    Norms of queries and keys give float32 there, beside values in 16 bits; sdpa is cast by autocast, flex_attention
    refuses the mixture.
    """
    query, key = query.to(value.dtype), key.to(value.dtype)
    output: tuple[Tensor, Tensor | None] = flex_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return output


AttentionInterface.register(FLEX, _same_dtype_flex_attention)
