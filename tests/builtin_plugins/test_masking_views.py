"""Maskings with views and scored positions of their own: truth tables by hand, and how often a token is scored."""

from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

from dlm_builtin_plugins.attention_biases.block import BlockAttention
from dlm_builtin_plugins.attention_biases.block_causal import BlockCausalAttention
from dlm_builtin_plugins.maskings.all import FullMasking
from dlm_builtin_plugins.maskings.complementary import ComplementaryMasking
from dlm_builtin_plugins.maskings.semi_ar import SemiAutoregressiveMasking, TwoStageMasking
from dlm_builtin_plugins.maskings.trace import TraceMasking
from dlm_plugins import KeyedDraws, Masking, MaskingRequest, Selection
from dlm_plugins.masking import views_of


class GivenCoins:
    """Every position's coin is 0 for ``x``, and nearly 1 for anything else; rows draw 0.4."""

    def __init__(self, pattern: str) -> None:
        self.coins = torch.tensor([[0.0 if character == "x" else 0.999 for character in pattern]])

    def per_row(self, purpose: str) -> Tensor:
        return torch.tensor([0.4])

    def per_position(self, purpose: str) -> Tensor:
        return self.coins


def request(answer: str, coins: str = "", *, view: int = 0, steps: list[int] | None = None, **more: Any) -> Any:
    """One row: ``p`` is prompt, ``a`` answer; blocks of 2, mask rate 0.5."""
    eligible = torch.tensor([[character == "a" for character in answer]])
    return MaskingRequest(
        eligible=eligible,
        p=torch.full(eligible.shape, 0.5),
        spans=torch.zeros_like(eligible, dtype=torch.int64),
        document_id=torch.zeros_like(eligible, dtype=torch.int64),
        block_length=2,
        view_index=torch.tensor([view]),
        draws=GivenCoins(coins or "." * len(answer)),
        committed_step=None if steps is None else torch.tensor([steps]),
        context=~eligible,
        **more,
    )


def shown(selection: Selection) -> str:
    """``S`` scored, ``h`` hidden only, ``.`` seen."""
    scored = selection.corrupted if selection.scored is None else selection.scored
    letters = {(True, True): "S", (True, False): "h", (False, False): "."}
    pairs = zip(selection.corrupted[0].tolist(), scored[0].tolist(), strict=True)
    return "".join(letters[pair] for pair in pairs)


def table(masking: Masking, answer: str, coins: str = "", **more: Any) -> list[str]:
    (num_views,) = views_of(masking, request(answer, coins, **more)).tolist()
    return [shown(masking.select(request(answer, coins, view=view, **more))) for view in range(num_views)]


def test_complementary_scores_every_token_once_a_pair():
    assert table(ComplementaryMasking(), "ppaaaa", "xxx..x") == ["..S..S", "...SS."]
    assert table(ComplementaryMasking(mix=0.3), "paaa", ".x.x") == [".S.S", "..S."]  # the row drew 0.4
    assert table(ComplementaryMasking(mix=0.5), "paaa", ".x.x") == [".S.S"]
    second = ComplementaryMasking().select(request("paa", ".x.", view=1)).p_mask
    assert second.tolist() == [[0.0, 0.5, 0.5]]


def test_semi_ar_has_clean_blocks_before_and_hidden_ones_behind():
    blocks = ["..S.hhh", "....S.h", "......S"]
    assert table(SemiAutoregressiveMasking(), "ppaaaaa", "..x.x.x") == blocks
    assert table(SemiAutoregressiveMasking(blocks="one"), "aaaaa", "x...x") == ["S.hhh"]
    assert table(SemiAutoregressiveMasking(blocks="one"), "aaaaa", "....x") == ["....S"]  # the first coin draws it
    separate = table(SemiAutoregressiveMasking(), "ppaaaaa", "..x.x.x", blocks_are_separate=True)
    assert separate == ["..S.S.S"]


def test_two_stages_hide_part_of_the_later_blocks():
    assert table(TwoStageMasking(second=0.9), "aaaaaa", "x...x.") == ["S...h.", "....h.", "....S."]
    assert table(TwoStageMasking(second=1.0), "aaaa", "x...") == table(SemiAutoregressiveMasking(), "aaaa", "x...")
    assert table(TwoStageMasking(first=1.0, second=0.0), "aaaa", "....") == ["SS..", "..SS"]


@pytest.mark.parametrize("bias", [BlockAttention(), BlockCausalAttention()], ids=repr)
def test_options_about_other_blocks_are_refused_where_none_is_seen(run_components, bias):
    maskings = (TwoStageMasking(), SemiAutoregressiveMasking(blocks="one"))
    assert not [reason for masking in maskings for reason in masking.incompatibilities(run_components)]
    separate = attrs.evolve(run_components, attention_bias=bias)
    assert not list(SemiAutoregressiveMasking().incompatibilities(separate))
    for masking in maskings:
        (reason,) = masking.incompatibilities(separate)
        assert "under acme:my_attention_bias" in reason


def test_trace_hides_what_was_written_later():
    steps = [-1, 5, 2, 9, 2]
    assert table(TraceMasking(), "paaaa", steps=steps) == [".hShS", ".S.h.", "...S."]
    assert table(TraceMasking(shrink=2), "paaaa", steps=steps) == [".SShS", "...S."]
    assert table(TraceMasking(shrink=9), "paaaa", steps=steps) == [".SSSS"]


def test_trace_hides_written_context_and_never_scores_it():
    # The last position was written behind the end of the answer; the one before it never was.
    assert table(TraceMasking(), "paapp", steps=[-1, 1, 0, -1, 1]) == [".hS.h", ".S..h"]


def test_trace_goes_through_separate_blocks_side_by_side():
    steps = [0, 1, 2, 3, 4]
    assert table(TraceMasking(), "aaaaa", steps=steps, blocks_are_separate=True) == ["ShShS", ".S.S."]


@pytest.mark.parametrize("masking", [TraceMasking(views=2), TraceMasking(views=2, shrink=2)])
def test_sampled_states_are_each_drawn_as_often_as_p_mask_says(masking):
    num_rows = 4000
    steps = torch.tensor([0, 1, 1, 2, 3, 4]).expand(num_rows, 6)
    eligible = torch.ones_like(steps, dtype=torch.bool)
    scored = []
    for view in range(2):
        found = masking.select(
            MaskingRequest(
                eligible=eligible,
                p=torch.zeros(num_rows, 6),
                spans=steps,
                document_id=torch.zeros_like(steps),
                block_length=2,
                view_index=torch.full((num_rows,), view),
                draws=KeyedDraws(seed=1, step=0, rows=torch.arange(num_rows), length=6),
                committed_step=steps,
            )
        )
        scored.append(found.scored)
    assert not (scored[0] & scored[1]).any()  # without replacement
    rate = float(found.p_mask[0, 0])
    share = torch.stack(scored).double().mean(dim=(0, 1))
    assert rate == pytest.approx(1 / 5 if masking.shrink == 1 else 1 / 3)
    assert ((share - rate).abs() < 5 * (rate * (1 - rate) / (2 * num_rows)) ** 0.5).all()


def test_all_hides_everything_and_tokens_of_the_prompt():
    assert table(FullMasking(), "ppaaa", "x....") == ["..SSS"]
    assert table(FullMasking(prompt_rate=0.2), "ppaaa", "x....") == ["h.SSS"]
    assert FullMasking(prompt_rate=0.2).select(request("ppaa", "xx..")).p_mask.tolist() == [[0, 0, 1, 1]]
