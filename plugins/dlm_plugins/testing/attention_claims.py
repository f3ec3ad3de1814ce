"""Claims of attention biases, tried on a small random transformer: change some tokens, see which outputs move."""

import torch
from torch import Tensor

from dlm_plugins.attention_bias import (
    BLOCKS_ARE_INDEPENDENT,
    NEEDS_CLEAN_COPY,
    PREFIX_IS_STATIC,
    AttentionBias,
    SequenceLayout,
)
from dlm_plugins.testing.layouts import layouts, with_clean_blocks
from dlm_plugins.testing.property_tools import contract_property, for_all
from dlm_plugins.testing.toy_attention import VOCABULARY_SIZE, outputs

# Tokens that cannot be seen have a softmax weight of exactly 0; what is left is the order of summation.
_TOLERANCE = 1e-9


def _ids(layout: SequenceLayout) -> Tensor:
    return torch.arange(layout.position.numel()).view_as(layout.position) * 7 % VOCABULARY_SIZE


def _require_unmoved(
    bias: AttentionBias, layout: SequenceLayout, changed: Tensor, watched: Tensor, what: str, after: SequenceLayout
) -> None:
    """Raise if other tokens at ``changed`` (B, L) move an output at ``watched`` (B, L)."""
    ids = _ids(layout)
    moved_ids = torch.where(changed, (ids + 5) % VOCABULARY_SIZE, ids)
    distance = (outputs(bias, layout, ids) - outputs(bias, after, moved_ids)).abs().amax(-1)
    moved = ((distance > _TOLERANCE) & watched).nonzero()
    if len(moved):
        row, position = moved[0].tolist()
        size = distance[row, position].item()
        raise AssertionError(f"{what} moves the output of position {position} in row {row} by {size:.3g}")


def _stages(bias: AttentionBias) -> tuple[str, str]:
    return ("training with a clean copy" if NEEDS_CLEAN_COPY.of(bias) else "training"), "sampling"


@contract_property
def check_prefix_is_static_claim(bias: AttentionBias) -> None:
    """Where ``prefix_is_static`` is claimed, other answer tokens, or more committed ones, do not move the prompt."""
    if not PREFIX_IS_STATIC.of(bias):
        return

    def body(layout: SequenceLayout) -> None:
        prompt, answer = (layout.block < 0) & (layout.document >= 0), layout.block >= 0
        _require_unmoved(bias, layout, answer, prompt, "claims prefix_is_static, but changing the answer", layout)

    def committed(layout: SequenceLayout) -> None:
        prompt, answer = (layout.block < 0) & (layout.document >= 0), layout.block >= 0
        later = with_clean_blocks(layout, 3)
        _require_unmoved(bias, layout, answer, prompt, "claims prefix_is_static, but committing blocks", later)

    for stage in _stages(bias):
        for_all(layouts(stage=stage), body)
    for_all(layouts(stage="sampling"), committed)


@contract_property
def check_blocks_are_independent_claim(bias: AttentionBias) -> None:
    """Where ``blocks_are_independent`` is claimed, other tokens in one block move no other block."""
    if not BLOCKS_ARE_INDEPENDENT.of(bias):
        return

    def body(layout: SequenceLayout) -> None:
        for block in range(int(layout.block.max()) + 1):
            changed = layout.block == block
            others = (layout.block >= 0) & ~changed
            what = f"claims blocks_are_independent, but changing block {block}"
            _require_unmoved(bias, layout, changed, others, what, layout)

    for stage in _stages(bias):
        for_all(layouts(stage=stage), body)


@contract_property
def check_clean_copy_does_not_leak(bias: AttentionBias) -> None:
    """On [noisy | clean] rows, clean positions see no noisy ones, noisy blocks no clean one from their own on."""
    if not NEEDS_CLEAN_COPY.of(bias):
        return

    def body(layout: SequenceLayout) -> None:
        real = layout.document >= 0
        noisy, clean = real & ~layout.is_clean, layout.is_clean
        what = "needs_clean_copy: changing the noisy half"
        # The prompt of the noisy half is as clean as its copy: only the answer's tokens are noise.
        _require_unmoved(bias, layout, noisy & (layout.block >= 0), clean, what, layout)
        for block in range(int(layout.block.max()) + 1):
            answer = clean & (layout.block >= block)
            what = f"needs_clean_copy: changing clean tokens from block {block} on (the answer)"
            _require_unmoved(bias, layout, answer, noisy & (layout.block == block), what, layout)

    for_all(layouts(stage="training with a clean copy"), body)
