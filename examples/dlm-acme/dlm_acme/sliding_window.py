"""Sliding-window attention."""

import attrs
from torch import Tensor

from dlm_plugins import MaskFunction, SequenceLayout


@attrs.frozen(kw_only=True)
class SlidingWindow:
    """A position sees the prompt and a window around itself.

    Beltagy et al. 2020, "Longformer", arXiv:2004.05150, with the prompt as its global tokens.
    """

    width: int = attrs.field(
        default=256,
        validator=attrs.validators.ge(0),
        metadata={"help": "Largest distance that is visible, in tokens, at least 0."},
    )
    static_prompt: bool = attrs.field(
        default=True,
        metadata={"help": "The prompt sees itself only, so that its keys and values can be cached exactly."},
    )

    @property
    def prefix_is_static(self) -> bool:
        """What the option promises."""
        return self.static_prompt

    def mask_function(self, layout: SequenceLayout) -> MaskFunction:
        """Distances are counted within a document."""
        position, block = layout.position, layout.block

        def is_visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            near = (position[batch, query] - position[batch, key]).abs() <= self.width
            if self.static_prompt:
                near = near & (block[batch, query] >= 0)
            return near | (block[batch, key] < 0)

        return is_visible
