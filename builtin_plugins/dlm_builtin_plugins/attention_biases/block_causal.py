"""Block diffusion (BD3-LM) attention: a noisy block sees the clean prompt, earlier clean blocks, and itself."""

from typing import ClassVar

import attrs
from torch import Tensor

from dlm_plugins import MaskFunction, SequenceLayout


@attrs.frozen(kw_only=True)
class BlockCausalAttention:
    """A noisy block sees the clean prompt, the clean blocks before it and itself (block diffusion).

    Arriola et al. 2025, "Block Diffusion", arXiv:2503.09573. A clean block sees the clean blocks up to itself, never a
    noisy one; the prompt counts as one block before the first. Trained on [noisy | clean].
    """

    prefix_is_static: ClassVar[bool] = True
    needs_clean_copy: ClassVar[bool] = True

    def mask_function(self, layout: SequenceLayout) -> MaskFunction:
        """Visible, within a document: the query's own block in its own copy, and earlier clean blocks."""
        block, document, is_clean = layout.block, layout.document, layout.is_clean

        def is_visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            query_block, key_block = block[batch, query], block[batch, key]
            query_is_clean, key_is_clean = is_clean[batch, query], is_clean[batch, key]
            own = (query_block == key_block) & (query_is_clean == key_is_clean)
            earlier = key_is_clean & (key_block < query_block)
            return (document[batch, query] == document[batch, key]) & (own | earlier)

        return is_visible
