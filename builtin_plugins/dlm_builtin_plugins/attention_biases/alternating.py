"""Attention by layer: layers take turns between full and block attention (local and global)."""

from typing import Literal

import attrs

from dlm_builtin_plugins.attention_biases.block import BlockAttention
from dlm_builtin_plugins.attention_biases.full import FullAttention
from dlm_plugins import AttentionBias, MaskFunction, SequenceLayout
from dlm_plugins.attention_bias import BLOCKS_ARE_INDEPENDENT, PREFIX_IS_STATIC

_BIASES: dict[str, AttentionBias] = {"full": FullAttention(), "block": BlockAttention()}


@attrs.frozen(kw_only=True)
class AlternatingAttention:
    """Layers take turns between two biases: local and global attention in one model.

    Turns of local and global layers: Beltagy et al. 2020 (Longformer, arXiv:2004.05150) and the Gemma models. Both
    biases read a single copy of the text, so that ``block_causal``, which needs two, cannot take part.
    """

    first: Literal["full", "block"] = attrs.field(
        default="block",
        validator=attrs.validators.in_(_BIASES),
        metadata={"help": "Bias of the first layers: full or block."},
    )
    second: Literal["full", "block"] = attrs.field(
        default="full",
        validator=attrs.validators.in_(_BIASES),
        metadata={"help": "Bias of the layers after them: full or block."},
    )
    layers_per_turn: int = attrs.field(
        default=1,
        validator=attrs.validators.ge(1),
        metadata={"help": "Number of neighbouring layers that share a bias, at least 1."},
    )

    @property
    def prefix_is_static(self) -> bool:
        """Only if it holds in every layer."""
        return PREFIX_IS_STATIC.of(_BIASES[self.first]) and PREFIX_IS_STATIC.of(_BIASES[self.second])

    @property
    def blocks_are_independent(self) -> bool:
        """Only if it holds in every layer."""
        return BLOCKS_ARE_INDEPENDENT.of(_BIASES[self.first]) and BLOCKS_ARE_INDEPENDENT.of(_BIASES[self.second])

    def for_layer(self, index: int) -> AttentionBias:
        """The bias whose turn it is at layer ``index``, from 0."""
        return _BIASES[(self.first, self.second)[index // self.layers_per_turn % 2]]

    def mask_function(self, layout: SequenceLayout) -> MaskFunction | None:
        """The rule of layer 0; ask ``for_layer`` for the others."""
        return self.for_layer(0).mask_function(layout)
