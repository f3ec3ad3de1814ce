"""Attention by layer: turns of full and block attention (local and global), a special case of per_layer."""

from typing import Literal

import attrs

from dlm_builtin_plugins.attention_biases.block import BlockAttention
from dlm_builtin_plugins.attention_biases.full import FullAttention
from dlm_builtin_plugins.attention_biases.per_layer import PerLayerAttention
from dlm_plugins import AttentionBias, MaskFunction, SequenceLayout

_BIASES: dict[str, AttentionBias] = {"full": FullAttention(), "block": BlockAttention()}


@attrs.frozen(kw_only=True)
class AlternatingAttention:
    """Layers take turns between full and block attention: ``per_layer`` with a plan of two turns.

    Turns of local and global layers: Beltagy et al. 2020 (Longformer, arXiv:2004.05150) and the Gemma models.
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
    def _layers(self) -> PerLayerAttention:
        turns = (_BIASES[self.first], _BIASES[self.second])
        return PerLayerAttention(plan=[bias for bias in turns for _ in range(self.layers_per_turn)])

    @property
    def prefix_is_static(self) -> bool:
        """Only if it holds in every layer."""
        return self._layers.prefix_is_static

    @property
    def blocks_are_independent(self) -> bool:
        """Only if it holds in every layer."""
        return self._layers.blocks_are_independent

    def for_layer(self, index: int) -> AttentionBias:
        """The bias whose turn it is at layer ``index``, from 0."""
        return self._layers.for_layer(index)

    def mask_function(self, layout: SequenceLayout) -> MaskFunction | None:
        """The rule of layer 0; ask ``for_layer`` for the others."""
        return self._layers.mask_function(layout)
