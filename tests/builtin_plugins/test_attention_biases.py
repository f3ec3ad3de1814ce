"""Attention biases against truth tables written by hand. A row of a table is a query, a column a key."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dlm_builtin_plugins.attention_biases.alternating import AlternatingAttention
from dlm_builtin_plugins.attention_biases.annealed import AnnealedAttention
from dlm_builtin_plugins.attention_biases.block import BlockAttention
from dlm_builtin_plugins.attention_biases.block_causal import BlockCausalAttention
from dlm_builtin_plugins.attention_biases.full import FullAttention
from dlm_builtin_plugins.attention_biases.per_layer import PerLayerAttention
from dlm_plugins import AttentionBias, KeyedDraws, SequenceLayout, bias_at_end, bias_of_layer
from dlm_plugins.attention_bias import BLOCKS_ARE_INDEPENDENT, NEEDS_CLEAN_COPY, PREFIX_IS_STATIC


def layout(block: list[int], *, document: list[int] | None = None, is_clean: list[int] | None = None) -> SequenceLayout:
    length = len(block)
    return SequenceLayout(
        position=torch.arange(length)[None],
        block=torch.tensor([block]),
        document=torch.tensor([document or [0] * length]),
        is_clean=torch.tensor([is_clean or [0] * length]).bool(),
    )


def table(bias: AttentionBias, where: SequenceLayout) -> list[str]:
    function = bias.mask_function(where)
    assert function is not None
    index = torch.arange(where.block.shape[1])
    zero = torch.zeros((), dtype=torch.int64)
    visible: Tensor = function(zero, zero, index[:, None], index[None, :])
    assert visible.dtype == torch.bool
    return ["".join("x" if seen else "." for seen in row) for row in visible.tolist()]


def test_full_attention_has_no_mask():
    assert FullAttention().mask_function(layout([0, 0])) is None
    assert not PREFIX_IS_STATIC.of(FullAttention())
    assert not BLOCKS_ARE_INDEPENDENT.of(FullAttention())


def test_block_attention_of_a_prompt_and_two_blocks():
    assert table(BlockAttention(), layout([-1, -1, 0, 0, 1])) == [
        "xx...",
        "xx...",
        "xxxx.",
        "xxxx.",
        "xx..x",
    ]
    assert PREFIX_IS_STATIC.of(BlockAttention())
    assert BLOCKS_ARE_INDEPENDENT.of(BlockAttention())


def test_block_attention_does_not_mix_equal_blocks_of_two_documents():
    assert table(BlockAttention(), layout([0, 1, 0, 1], document=[0, 0, 1, 1])) == ["x...", ".x..", "..x.", "...x"]


def test_block_causal_attention_on_a_noisy_and_a_clean_copy():
    """Four tokens in blocks of two, as in the figure of the block diffusion paper: [noisy | clean]."""
    where = layout([0, 0, 1, 1, 0, 0, 1, 1], is_clean=[0, 0, 0, 0, 1, 1, 1, 1])
    assert table(BlockCausalAttention(), where) == [
        "xx......",
        "xx......",
        "..xxxx..",
        "..xxxx..",
        "....xx..",
        "....xx..",
        "....xxxx",
        "....xxxx",
    ]
    assert NEEDS_CLEAN_COPY.of(BlockCausalAttention())


def test_block_causal_attention_of_an_answer_behind_a_prompt():
    where = layout([-1, 0, 1, -1, 0, 1], is_clean=[0, 0, 0, 1, 1, 1])
    assert table(BlockCausalAttention(), where) == [
        "x.....",  # the noisy copy of the prompt, which nobody scores
        ".x.x..",  # first noisy block: itself and the clean prompt
        "..xxx.",  # second: itself, the clean prompt and the clean first block
        "...x..",
        "...xx.",
        "...xxx",
    ]


def test_block_causal_attention_while_sampling_the_second_of_three_blocks():
    where = layout([-1, -1, 0, 1, 2], is_clean=[1, 1, 1, 0, 0])
    assert table(BlockCausalAttention(), where) == [
        "xx...",
        "xx...",
        "xxx..",
        "xxxx.",
        "xxx.x",
    ]
    assert PREFIX_IS_STATIC.of(BlockCausalAttention())


def test_block_causal_attention_stays_within_a_document():
    where = layout([0, 1, 0, 1], document=[0, 0, 1, 1], is_clean=[1, 1, 1, 1])
    assert table(BlockCausalAttention(), where) == ["x...", "xx..", "..x.", "..xx"]


@settings(deadline=None, max_examples=50)
@given(num_prompt=st.integers(0, 4), num_answer=st.integers(1, 9), block_length=st.integers(1, 4))
def test_block_causal_equals_the_three_published_terms(num_prompt, num_answer, block_length):
    """Block-diagonal, offset block-causal and block-causal, written with indices instead of sets."""
    half = [-1] * num_prompt + [i // block_length for i in range(num_answer)]
    length = len(half)
    found = table(BlockCausalAttention(), layout(half * 2, is_clean=[0] * length + [1] * length))
    for query in range(2 * length):
        for key in range(2 * length):
            clean_query, clean_key = query >= length, key >= length
            block_query, block_key = half[query % length], half[key % length]
            diagonal = clean_query == clean_key and block_query == block_key
            offset = not clean_query and clean_key and block_query > block_key
            causal = clean_query and clean_key and block_query >= block_key
            assert (found[query][key] == "x") == (diagonal or offset or causal)


def test_alternating_takes_turns():
    bias = AlternatingAttention()
    assert [type(bias_of_layer(bias, index)) for index in range(4)] == [BlockAttention, FullAttention] * 2
    slow = AlternatingAttention(first="full", second="block", layers_per_turn=2)
    assert [type(bias_of_layer(slow, index)).__name__[0] for index in range(6)] == list("FFBBFF")


@pytest.mark.parametrize(("first", "second", "is_static"), [("block", "block", True), ("block", "full", False)])
def test_alternating_claims_what_holds_in_every_layer(first, second, is_static):
    bias = AlternatingAttention(first=first, second=second)
    assert PREFIX_IS_STATIC.of(bias) is is_static
    assert BLOCKS_ARE_INDEPENDENT.of(bias) is is_static


def test_alternating_refuses_other_biases():
    with pytest.raises(ValueError, match="'first' must be in"):
        AlternatingAttention(first="block_causal")


PLAN = PerLayerAttention(plan=[BlockAttention(), BlockAttention(), FullAttention()])


def test_a_plan_is_repeated_over_the_layers():
    assert PerLayerAttention() == PLAN
    kinds = [type(bias_of_layer(PLAN, index)) for index in range(7)]
    assert kinds == [BlockAttention, BlockAttention, FullAttention] * 2 + [BlockAttention]
    nested = PerLayerAttention(plan=[AlternatingAttention(), FullAttention()])
    assert [type(bias_of_layer(nested, index)).__name__[0] for index in range(4)] == list("BFBF")


@pytest.mark.parametrize("layers_per_turn", [1, 2])
@pytest.mark.parametrize(("first", "second"), [("block", "full"), ("full", "block"), ("block", "block")])
def test_alternating_is_a_plan_of_two_turns(first, second, layers_per_turn):
    kinds = {"full": FullAttention(), "block": BlockAttention()}
    plan = PerLayerAttention(plan=[kinds[first]] * layers_per_turn + [kinds[second]] * layers_per_turn)
    turns = AlternatingAttention(first=first, second=second, layers_per_turn=layers_per_turn)
    assert [turns.for_layer(index) for index in range(9)] == [plan.for_layer(index) for index in range(9)]


@pytest.mark.parametrize(
    ("plan", "claims"),
    [
        ([BlockAttention(), BlockAttention()], (True, True, False)),
        ([BlockAttention(), FullAttention()], (False, False, False)),
        ([BlockCausalAttention()], (True, False, True)),
        ([AlternatingAttention(), BlockAttention()], (False, False, False)),
    ],
)
def test_a_plan_claims_what_holds_in_every_layer(plan, claims):
    bias = PerLayerAttention(plan=plan)
    assert tuple(claim.of(bias) for claim in (PREFIX_IS_STATIC, BLOCKS_ARE_INDEPENDENT, NEEDS_CLEAN_COPY)) == claims


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        ([], "at least one bias"),
        (["full"], "must hold attention biases, not 'full'"),
        ([FullAttention(), BlockCausalAttention()], "must not mix BlockCausalAttention.* with FullAttention"),
    ],
)
def test_a_plan_that_cannot_work_is_refused(plan, reason):
    with pytest.raises(ValueError, match=reason):
        PerLayerAttention(plan=plan)


def during_training(progress: float, *, rows: tuple[int, ...] = (0,), length: int = 4, step: int = 3) -> SequenceLayout:
    position = torch.arange(length).expand(len(rows), length)
    draws = KeyedDraws(seed=1, step=step, rows=torch.tensor(rows), length=length)
    return SequenceLayout(
        position=position,
        block=position,
        document=torch.zeros_like(position),
        is_clean=position < 0,
        progress=progress,
        draws=draws,
    )


def test_annealed_attention_goes_from_causal_to_full():
    bias = AnnealedAttention(until=0.8)
    assert table(bias, during_training(0.0)) == ["x...", "xx..", "xxx.", "xxxx"]
    assert bias.mask_function(during_training(0.8)) is None
    assert bias.mask_function(layout([0, 0])) is None
    assert bias_at_end(bias) == FullAttention()
    assert bias_at_end(PerLayerAttention(plan=[BlockAttention(), bias])) == PerLayerAttention(
        plan=[BlockAttention(), FullAttention()]
    )
    assert bias_at_end(PLAN) == PLAN


@pytest.mark.parametrize("progress", [0.1, 0.5])
def test_annealed_attention_shows_a_share_of_what_is_later(progress):
    where = during_training(progress, rows=tuple(range(40)), length=64)
    function = AnnealedAttention(until=0.8).mask_function(where)
    assert function is not None
    row, index = torch.arange(40)[:, None, None], torch.arange(64)
    seen = function(row, torch.zeros((), dtype=torch.int64), index[:, None], index[None, :])
    later = index[None, :] > index[:, None]
    assert seen[:, ~later].all()
    shares = seen[:, later].float().mean(dim=1)  # of each row, which are independent
    error = shares.std() / len(shares) ** 0.5
    assert abs(shares.mean() - progress / 0.8) < 4 * error
    other = AnnealedAttention(until=0.8).mask_function(during_training(progress, rows=(7,), length=70))
    assert other is not None
    zero = torch.zeros((), dtype=torch.int64)
    assert torch.equal(other(zero, zero, index[:, None], index[None, :]), seen[7])
