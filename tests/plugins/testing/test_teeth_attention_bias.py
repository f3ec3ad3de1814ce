"""Wrong attention biases, false claims among them, are caught by the property they break."""

from collections.abc import Callable
from typing import ClassVar

import attrs
import pytest
import torch
from torch import Tensor

from dlm_plugins import AttentionBias, MaskFunction, SequenceLayout
from dlm_plugins.testing import check_component


def same_block(layout: SequenceLayout, batch: Tensor, query: Tensor, key: Tensor) -> Tensor:
    block, document = layout.block, layout.document
    return (block[batch, query] == block[batch, key]) & (document[batch, query] == document[batch, key])


@attrs.frozen(kw_only=True)
class Full:
    """Everybody sees everybody: sound."""

    def mask_function(self, layout: SequenceLayout) -> MaskFunction | None:
        return None


@attrs.frozen(kw_only=True)
class Block:
    """The prompt and the own block: sound."""

    prefix_is_static: ClassVar[bool] = True
    blocks_are_independent: ClassVar[bool] = True

    def mask_function(self, layout: SequenceLayout) -> MaskFunction:
        def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return same_block(layout, batch, query, key) | (layout.block[batch, key] < 0)

        return sees


@attrs.frozen(kw_only=True)
class BlockDiffusion:
    """Noisy blocks see themselves and clean blocks before; clean ones see clean ones up to themselves: sound."""

    prefix_is_static: ClassVar[bool] = True
    needs_clean_copy: ClassVar[bool] = True

    def mask_function(self, layout: SequenceLayout) -> MaskFunction:
        block, clean = layout.block, layout.is_clean

        def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            earlier, own = block[batch, key] < block[batch, query], block[batch, key] == block[batch, query]
            return (clean[batch, key] & earlier) | (own & (clean[batch, key] == clean[batch, query]))

        return sees


@attrs.frozen(kw_only=True)
class LeaksOwnBlock:
    """Noisy blocks see the clean copy of themselves: the answer."""

    needs_clean_copy: ClassVar[bool] = True

    def mask_function(self, layout: SequenceLayout) -> MaskFunction:
        block, clean = layout.block, layout.is_clean

        def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            earlier, own = block[batch, key] <= block[batch, query], block[batch, key] == block[batch, query]
            return (clean[batch, key] & earlier) | (own & ~clean[batch, query] & ~clean[batch, key])

        return sees


@attrs.frozen(kw_only=True)
class CleanSeesNoise(BlockDiffusion):
    """Clean positions see the noisy copy of their block."""

    def mask_function(self, layout: SequenceLayout) -> MaskFunction:
        sound = BlockDiffusion().mask_function(layout)

        def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            own = layout.block[batch, key] == layout.block[batch, query]
            return sound(batch, head, query, key) | (layout.is_clean[batch, query] & own)

        return sees


@attrs.frozen(kw_only=True)
class LiesAboutPrefix(Full):
    """The prompt sees the answer, and denies it."""

    prefix_is_static: ClassVar[bool] = True


@attrs.frozen(kw_only=True)
class PrefixSeesClean:
    """The prompt sees committed blocks: static within a step, not over steps."""

    prefix_is_static: ClassVar[bool] = True

    def mask_function(self, layout: SequenceLayout) -> MaskFunction:
        sound = Block().mask_function(layout)

        def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return sound(batch, head, query, key) | layout.is_clean[batch, key]

        return sees


@attrs.frozen(kw_only=True)
class LiesAboutBlocks:
    """Blocks see earlier blocks, and deny it."""

    prefix_is_static: ClassVar[bool] = True
    blocks_are_independent: ClassVar[bool] = True

    def mask_function(self, layout: SequenceLayout) -> MaskFunction:
        return lambda batch, head, query, key: layout.block[batch, key] <= layout.block[batch, query]


@attrs.frozen(kw_only=True)
class BlocksMeetInThePrompt:
    """No block sees another one, but the prompt sees all of them: two layers carry everything across."""

    blocks_are_independent: ClassVar[bool] = True

    def mask_function(self, layout: SequenceLayout) -> MaskFunction:
        sound = Block().mask_function(layout)

        def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return sound(batch, head, query, key) | (layout.block[batch, query] < 0)

        return sees


@attrs.frozen(kw_only=True)
class FullOnTop:
    """Keeps its claims in the lower layers only."""

    prefix_is_static: ClassVar[bool] = True
    blocks_are_independent: ClassVar[bool] = True

    def for_layer(self, index: int) -> AttentionBias:
        return Full() if index == 3 else Block()

    def mask_function(self, layout: SequenceLayout) -> MaskFunction | None:
        return Block().mask_function(layout)


@attrs.frozen(kw_only=True)
class Blind:
    """Sees earlier positions only: the first one sees nothing."""

    def mask_function(self, layout: SequenceLayout) -> MaskFunction:
        return lambda batch, head, query, key: (key < query) & (head >= 0) & (batch >= 0)


@attrs.frozen(kw_only=True)
class Branches:
    """Decides for all pairs at once by looking at the first."""

    def mask_function(self, layout: SequenceLayout) -> MaskFunction:
        def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            allowed = batch + head + query + key >= 0
            return allowed if int(query.flatten()[0]) == 0 else ~allowed | (query == key)

        return sees


@attrs.frozen(kw_only=True)
class Numbers:
    """Returns 0 and 1."""

    def mask_function(self, layout: SequenceLayout) -> MaskFunction:
        return lambda batch, head, query, key: torch.ones_like(batch + head + query + key)


@attrs.frozen(kw_only=True)
class CountsFromTheEnd:
    """A window that is measured from the padded end of the row."""

    def mask_function(self, layout: SequenceLayout) -> MaskFunction:
        length = layout.position.shape[1]
        return lambda batch, head, query, key: ((length - key) % 2 == 0) | (query == key) & (batch >= 0) & (head >= 0)


@attrs.frozen(kw_only=True)
class LongestOfBatch:
    """Rows with fewer blocks than the longest of the batch see less."""

    def mask_function(self, layout: SequenceLayout) -> MaskFunction:
        last = layout.block.max()

        def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return (layout.block[batch, key] < last) | same_block(layout, batch, query, key)

        return sees


@attrs.frozen(kw_only=True)
class NoBiasInLayers(Full):
    """Its layers are functions, not biases."""

    def for_layer(self, index: int) -> object:
        return lambda layout: None


@attrs.frozen(kw_only=True)
class DrawsAlways(Full):
    """Counts on draws, which there are none of in sampling."""

    def mask_function(self, layout: SequenceLayout) -> MaskFunction:
        assert layout.draws is not None
        coin = layout.draws.per_position("coin")

        def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return (coin[batch, key] < layout.progress) | (query == key)

        return sees


@attrs.frozen(kw_only=True)
class OnTheCpu(Full):
    """Mixes devices."""

    def mask_function(self, layout: SequenceLayout) -> MaskFunction:
        start = torch.zeros(layout.position.shape, dtype=torch.int64)

        def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return layout.position >= start

        return sees


WRONG = [
    (DrawsAlways, "elementwise"),
    (OnTheCpu, "device_kept"),
    (LiesAboutPrefix, "prefix_is_static_claim"),
    (PrefixSeesClean, "prefix_is_static_claim"),
    (FullOnTop, "prefix_is_static_claim"),
    (LiesAboutBlocks, "blocks_are_independent_claim"),
    (BlocksMeetInThePrompt, "blocks_are_independent_claim"),
    (FullOnTop, "blocks_are_independent_claim"),
    (LeaksOwnBlock, "clean_copy_does_not_leak"),
    (CleanSeesNoise, "clean_copy_does_not_leak"),
    (Blind, "sees_something"),
    (Branches, "elementwise"),
    (Numbers, "elementwise"),
    (CountsFromTheEnd, "row_independent_of_batch"),
    (LongestOfBatch, "row_independent_of_batch"),
    (NoBiasInLayers, "layers_stable"),
]


@pytest.mark.parametrize(("cls", "name"), WRONG, ids=lambda value: getattr(value, "__name__", value))
def test_wrong_bias_is_caught(refute: Callable[[str, type, str], str], cls: type, name: str) -> None:
    refute("attention_bias", cls, name)


@pytest.mark.parametrize("cls", [Full, Block, BlockDiffusion])
def test_sound_bias_passes(cls: type) -> None:
    assert check_component("attention_bias", cls) == []


def test_wrong_bias_fails_by_its_property_only() -> None:
    (message,) = check_component("attention_bias", LiesAboutPrefix)
    assert "changing the answer moves the output of position" in message
