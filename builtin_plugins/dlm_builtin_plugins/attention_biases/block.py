"""Block attention: the prompt sees the prompt, a block of the answer sees the prompt and itself (side by side)."""

from typing import ClassVar

import attrs
from torch import Tensor

from dlm_plugins import MaskFunction, SequenceLayout


@attrs.frozen(kw_only=True)
class BlockAttention:
    """The prompt sees the prompt; a block of the answer sees the prompt and itself.

    Given the prompt, the blocks are independent of each other: they can be decoded side by side, but a long answer is
    no coherent text. (Block diffusion, where a block also sees the blocks before it, is ``block_causal``.)
    """

    prefix_is_static: ClassVar[bool] = True
    blocks_are_independent: ClassVar[bool] = True

    def mask_function(self, layout: SequenceLayout) -> MaskFunction:
        """Visible: any prompt position, and the query's own block of the same document."""
        block, document = layout.block, layout.document

        def is_visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            in_prompt = block[batch, key] < 0
            in_block = (block[batch, query] == block[batch, key]) & (document[batch, query] == document[batch, key])
            return in_prompt | in_block

        return is_visible
