"""Attention by layer: a plan of biases (names, or mappings with options), repeated over the layers."""

from collections.abc import Sequence
from typing import Any

import attrs

from dlm_builtin_plugins.attention_biases.block import BlockAttention
from dlm_builtin_plugins.attention_biases.full import FullAttention
from dlm_plugins import AttentionBias, MaskFunction, SequenceLayout, bias_at_end, bias_of_layer
from dlm_plugins.attention_bias import BLOCKS_ARE_INDEPENDENT, NEEDS_CLEAN_COPY, PREFIX_IS_STATIC


def _fixed(plan: Sequence[AttentionBias]) -> Sequence[AttentionBias]:
    return tuple(plan)


def _check_plan(layered: object, field: "attrs.Attribute[Any]", plan: Sequence[Any]) -> None:
    """At least one bias; all of them, or none, with a clean copy."""
    if not plan:
        raise ValueError("'plan' must name at least one bias")
    wrong = next((each for each in plan if not isinstance(each, AttentionBias)), None)
    if wrong is not None:
        raise ValueError(f"'plan' must hold attention biases, not {wrong!r}")
    needs = [NEEDS_CLEAN_COPY.of(each) for each in plan]
    if any(needs) and not all(needs):
        doubled, single = (type(plan[needs.index(need)]).__name__ for need in (True, False))
        raise ValueError(
            f"'plan' must not mix {doubled}, which trains on [noisy | clean], with {single}, whose noisy positions "
            "would see the clean copy of themselves"
        )


@attrs.frozen(kw_only=True)
class PerLayerAttention:
    """The biases of a plan, one a layer, from the first again behind the last.

    Local and global layers in one model: Beltagy et al. 2020 (Longformer, arXiv:2004.05150) and the Gemma models. It
    claims what every one of its biases claims.
    """

    plan: Sequence[AttentionBias] = attrs.field(
        default=(BlockAttention(), BlockAttention(), FullAttention()),
        converter=_fixed,
        validator=_check_plan,
        metadata={"help": "Biases of the layers in order, each a name or a mapping with `name` and options."},
    )

    @property
    def prefix_is_static(self) -> bool:
        """Only if it holds in every layer."""
        return all(map(PREFIX_IS_STATIC.of, self.plan))

    @property
    def blocks_are_independent(self) -> bool:
        """Only if it holds in every layer."""
        return all(map(BLOCKS_ARE_INDEPENDENT.of, self.plan))

    @property
    def needs_clean_copy(self) -> bool:
        """All of the plan, or none of it."""
        return all(map(NEEDS_CLEAN_COPY.of, self.plan))

    def at_end(self) -> AttentionBias:
        """A plan of what its biases end with."""
        return attrs.evolve(self, plan=[bias_at_end(each) for each in self.plan])

    def for_layer(self, index: int) -> AttentionBias:
        """The bias whose turn it is at layer ``index``, from 0."""
        return bias_of_layer(self.plan[index % len(self.plan)], index)

    def mask_function(self, layout: SequenceLayout) -> MaskFunction | None:
        """The rule of layer 0; ask ``for_layer`` for the others."""
        return self.for_layer(0).mask_function(layout)
