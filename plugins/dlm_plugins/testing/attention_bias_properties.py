"""Contract tests of attention biases read off the mask function: elementwise, nobody blind, layers stable."""

from functools import partial

import attrs
import torch
from torch import Tensor

from dlm_plugins.attention_bias import (
    NEEDS_CLEAN_COPY,
    AttentionBias,
    LayeredAttentionBias,
    SequenceLayout,
    bias_at_end,
    bias_of_layer,
)
from dlm_plugins.testing import toy_attention
from dlm_plugins.testing.attention_claims import (
    check_blocks_are_independent_claim,
    check_clean_copy_does_not_leak,
    check_prefix_is_static_claim,
)
from dlm_plugins.testing.layouts import layouts, on_device, padded, take
from dlm_plugins.testing.property_tools import contract_property, describe, for_all, require_equal
from dlm_plugins.testing.purity import require_device_kept, require_pure
from dlm_plugins.testing.toy_attention import NUM_HEADS, NUM_LAYERS


def _training_stage(bias: AttentionBias) -> str:
    return "training with a clean copy" if NEEDS_CLEAN_COPY.of(bias) else "training"


def _visible(bias: AttentionBias, layout: SequenceLayout) -> Tensor:
    """(layers, B, heads, L, L) bool."""
    num_rows, length = layout.position.shape
    everything = torch.ones(num_rows, NUM_HEADS, length, length, dtype=torch.bool)
    layers = [toy_attention.visible(bias_of_layer(bias, index), layout) for index in range(NUM_LAYERS)]
    return torch.stack([everything if layer is None else layer for layer in layers])


@contract_property
def check_elementwise(bias: AttentionBias) -> None:
    """The mask function answers each pair by itself, in bool: broadcast, one by one, in any order and chunk."""

    def body(layout: SequenceLayout) -> None:
        for index in range(NUM_LAYERS):
            function = bias_of_layer(bias, index).mask_function(layout)
            if function is None:
                continue
            grid = toy_attention.visible(bias_of_layer(bias, index), layout)
            if grid is None or grid.dtype != torch.bool:
                raise AssertionError(f"the mask function returns {getattr(grid, 'dtype', None)}, not torch.bool")
            pairs = torch.cartesian_prod(*(torch.arange(size) for size in grid.shape))
            shuffled = pairs[torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))]
            for chunk in torch.split(shuffled, 97):
                found = function(*chunk.unbind(1))
                require_equal(
                    found, grid[tuple(chunk.unbind(1))], f"layer {index}: other answers for the pairs {describe(chunk)}"
                )
            single = function(*pairs[-1])
            require_equal(
                single, grid.flatten()[-1], f"layer {index}: another answer for the pair {describe(pairs[-1])}"
            )

    for stage in (_training_stage(bias), "sampling"):
        for_all(layouts(stage=stage), body, max_examples=15)


@contract_property
def check_sees_something(bias: AttentionBias) -> None:
    """Every real position sees at least one real position of its document, in every layer and head."""

    def body(layout: SequenceLayout) -> None:
        sees = (_visible(bias, layout) & toy_attention.isolated(layout)).any(-1)
        blind = (~sees & (layout.document >= 0)[:, None, :]).nonzero()
        if len(blind):
            layer, row, _, position = blind[0].tolist()
            raise AssertionError(f"position {position} of row {row} sees nothing in layer {layer}")

    for stage in (_training_stage(bias), "sampling"):
        for_all(layouts(stage=stage), body)


@contract_property
def check_row_independent_of_batch(bias: AttentionBias) -> None:
    """What a row sees does not depend on the other rows, nor on the amount of padding."""

    def body(layout: SequenceLayout) -> None:
        num_rows, length = layout.position.shape
        whole = _visible(bias, layout)
        for row in range(num_rows):
            require_equal(_visible(bias, take(layout, [row])), whole[:, [row]], f"other visibility for row {row} alone")
        more = _visible(bias, padded(layout, 3))[..., :length, :length]
        require_equal(more, whole, "other visibility with more padding")

    for stage in (_training_stage(bias), "sampling"):
        for_all(layouts(stage=stage), body)


@contract_property
def check_layers_stable(bias: AttentionBias) -> None:
    """``for_layer`` gives an attention bias for every layer, and the same one each time."""
    if not isinstance(bias, LayeredAttentionBias):
        return
    for index in range(NUM_LAYERS):
        layer = bias.for_layer(index)
        if not isinstance(layer, AttentionBias):
            raise AssertionError(f"for_layer({index}) is {layer!r}, not an attention bias")

    def body(layout: SequenceLayout) -> None:
        require_equal(_visible(bias, layout), _visible(bias, layout), "for_layer answers differently the second time")

    for_all(layouts(stage=_training_stage(bias)), body, max_examples=5)


@contract_property
def check_end(bias: AttentionBias) -> None:
    """``at_end`` gives what the bias is at progress 1, and changes no more."""
    end = bias_at_end(bias)
    if not isinstance(end, AttentionBias):
        raise AssertionError(f"at_end gives {end!r}, not an attention bias")
    if bias_at_end(end) != end:
        raise AssertionError("at_end gives a bias that changes still")

    def body(layout: SequenceLayout) -> None:
        last = attrs.evolve(layout, progress=1.0, draws=None)
        require_equal(_visible(end, last), _visible(bias, last), "at_end sees other positions than progress 1")
        require_equal(_visible(end, layout), _visible(end, last), "at_end gives a bias that changes still")

    for_all(layouts(stage=_training_stage(bias)), body, max_examples=15)


@contract_property
def check_pure(bias: AttentionBias) -> None:
    """Same answer every time, the layout left as it was, no random numbers."""
    for_all(
        layouts(stage=_training_stage(bias)),
        lambda layout: require_pure(lambda asked: _visible(bias, asked), layout),
        max_examples=5,
    )


@contract_property
def check_device_kept(bias: AttentionBias) -> None:
    """What is visible is said where the layout is."""

    def body(layout: SequenceLayout) -> None:
        there = on_device(layout, "meta")
        for layer in {bias_of_layer(bias, index) for index in range(NUM_LAYERS)}:
            require_device_kept(partial(toy_attention.visible, layer, there))

    for_all(layouts(stage=_training_stage(bias)), body, max_examples=3)


PROPERTIES = (
    check_elementwise,
    check_sees_something,
    check_row_independent_of_batch,
    check_layers_stable,
    check_end,
    check_prefix_is_static_claim,
    check_blocks_are_independent_claim,
    check_clean_copy_does_not_leak,
    check_pure,
    check_device_kept,
)
