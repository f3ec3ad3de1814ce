"""What holds whatever the settings are."""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlm.config.components_in_effect import reason_against_shift
from dlm.sampling import candidates, generate, iter_generate
from dlm.sampling.arguments import component
from dlm_builtin_plugins.attention_biases.block import BlockAttention
from dlm_builtin_plugins.attention_biases.block_causal import BlockCausalAttention
from dlm_plugins.remasking import RESPECTS_QUOTA

MASK = 49
REMASKERS = [
    "low_confidence",
    "random",
    "random_topk",
    "threshold",
    "dynamic_threshold",
    "factor",
    "confidence_temperature",
    "entropy",
    "margin",
    "remdm",
    {"name": "remdm", "rate": 0.6},
    {"name": "remdm", "rate": 0.5, "reconsider": True},
]


@st.composite
def any_call(draw: st.DrawFn) -> dict[str, Any]:
    """Prompts with or without gaps and padding, and settings that fit them."""
    num_rows, prompt_length = draw(st.integers(1, 4)), draw(st.integers(0, 9))
    random = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    prompt = torch.randint(0, MASK, (num_rows, prompt_length), generator=random)
    has_gaps = prompt_length > 0 and draw(st.booleans())
    if has_gaps:
        prompt[torch.rand(prompt.shape, generator=random) < 0.4] = MASK
        prompt[:, -1] = MASK
    # A prompt may be nothing but padding, where there is an answer to be written.
    longest_pad = prompt_length - has_gaps
    pads = torch.randint(0, longest_pad + 1, (num_rows, 1), generator=random) if prompt_length else None
    mask = None if pads is None or draw(st.booleans()) else (torch.arange(prompt_length)[None] >= pads).long()
    gen_length = draw(st.integers(0 if has_gaps else 1, 12))
    block_length = draw(st.integers(1, gen_length or prompt_length))
    # More blocks than this a row cannot have.
    num_blocks = -(-(gen_length + (prompt_length if has_gaps else 0)) // block_length)
    return {
        "input_ids": prompt,
        "attention_mask": mask,
        "gen_length": gen_length,
        "block_length": block_length,
        "steps": draw(st.integers(num_blocks, num_blocks + 12)),
        "temperature": draw(st.sampled_from([0.0, 0.5, 1.0])),
        "cfg_scale": draw(st.sampled_from([0.0, 0.0, 1.0])),
        "remasking": draw(st.sampled_from(REMASKERS)),
        "attention_bias": draw(st.sampled_from([None, BlockAttention(), BlockCausalAttention()])),
        "cache": draw(st.sampled_from(["auto", "off", "prefix", "dual"])),
        "seed": draw(st.integers(0, 3)),
        "suppress_tokens": draw(st.sampled_from([(), (0, 1, 2)])),
    }


@settings(deadline=None, max_examples=200)
@given(call=any_call(), seed=st.integers(0, 3))
def test_no_setting_overwrites_a_prompt_leaves_a_mask_or_commits_more_than_the_canvas(
    frozen_model: Any, call: dict[str, Any], seed: int
) -> None:
    prompt, attention_mask = call["input_ids"], call["attention_mask"]
    states = list(iter_generate(frozen_model(seed=seed), **call))
    sequences = states[-1].sequences
    given_ids = prompt != MASK
    real = torch.ones_like(given_ids) if attention_mask is None else attention_mask.bool()
    width = prompt.shape[1]
    assert sequences.shape == (len(prompt), width + call["gen_length"])
    assert sequences[:, :width][given_ids | ~real].equal(prompt[given_ids | ~real])
    assert not (sequences[:, :width][real] == MASK).any()
    assert not (sequences[:, width:] == MASK).any()
    assert not states[-1].masked.any()
    num_writable = (~given_ids & real).sum(dim=1) + call["gen_length"]
    assert ((states[-1].committed_step >= 0).sum(dim=1)).equal(num_writable)
    assert (states[-1].log_probabilities <= 1e-12).all()
    assert not torch.isin(sequences[:, width:], torch.tensor(call["suppress_tokens"], dtype=torch.long)).any()
    if RESPECTS_QUOTA.of(component("remasking", call["remasking"])):
        for before, after in itertools.pairwise(states):
            kept = ~before.masked
            assert after.sequences[kept].equal(before.sequences[kept])


@settings(deadline=None, max_examples=30)
@given(call=any_call(), seed=st.integers(0, 3), shift=st.booleans())
def test_a_row_alone_gets_the_tokens_it_gets_in_a_batch(
    frozen_model: Any, call: dict[str, Any], seed: int, shift: bool
) -> None:
    bias = call["attention_bias"]
    model = frozen_model(seed=seed, logit_shift=shift and (bias is None or reason_against_shift(bias) is None))
    prompt, attention_mask = call.pop("input_ids"), call.pop("attention_mask")
    if call["cache"] in ("prefix", "dual"):
        call["cache"] = "auto"
    width = prompt.shape[1]
    pads = torch.zeros(len(prompt)).long() if attention_mask is None else (1 - attention_mask).sum(dim=1)
    together = generate(model, prompt, attention_mask=attention_mask, **call)
    for row in range(len(prompt)):
        start = int(pads[row])
        if call["block_length"] > (call["gen_length"] or width - start):
            continue
        if not (prompt[row, start:] == MASK).any() and not call["gen_length"]:
            continue
        alone = generate(model, prompt[row : row + 1, start:], row_keys=torch.tensor([row]), **call)
        assert alone.sequences[0].equal(together.sequences[row, start:])
        # Alone, blocks may be decoded side by side where in the batch they are not: other steps, the same tokens.
        if alone.cache == together.cache:
            assert alone.committed_step[0].equal(together.committed_step[row, start:])


def test_the_seed_and_the_row_decide_what_is_drawn(model: Any) -> None:
    prompt = torch.tensor([[1, 2, 3], [1, 2, 3]])
    arguments: dict[str, Any] = {"gen_length": 12, "steps": 12, "temperature": 1.0}
    first = generate(model, prompt, seed=1, **arguments).sequences
    again = generate(model, prompt, seed=1, **arguments).sequences
    other = generate(model, prompt, seed=2, **arguments).sequences
    swapped = generate(model, prompt, seed=1, row_keys=torch.tensor([1, 0]), **arguments).sequences
    assert first.equal(again)
    assert not first.equal(other)
    assert not first[0].equal(first[1])
    assert swapped.equal(first.flip(0))


def test_sampling_disturbs_neither_the_global_generator_nor_the_mode_of_the_model(make_model: Any) -> None:
    model = make_model(attention_dropout=0.5).train()
    state = torch.get_rng_state()
    arguments: dict[str, Any] = {"gen_length": 6, "steps": 6, "temperature": 1.0}
    in_training = generate(model, torch.tensor([[1, 2, 3]]), **arguments).sequences
    assert torch.get_rng_state().equal(state)
    assert all(module.training for module in model.modules())
    assert in_training.equal(generate(model.eval(), torch.tensor([[1, 2, 3]]), **arguments).sequences)


def test_steps_that_can_change_nothing_cost_no_forward(model: Any) -> None:
    output = generate(model, torch.tensor([[1, 2, 3]]), gen_length=5, steps=50)
    assert output.num_forwards == 5


@pytest.mark.parametrize("remasking", ["threshold", "factor"])
def test_a_rule_that_is_sure_early_ends_early(make_model: Any, remasking: str) -> None:
    sure = make_model(initializer_range=2.0)
    prompt = torch.tensor([[1, 2, 3]])
    num_forwards = generate(sure, prompt, gen_length=12, steps=12, remasking=remasking).num_forwards
    assert num_forwards < generate(sure, prompt, gen_length=12, steps=12).num_forwards


def test_guidance_of_zero_is_no_guidance_and_more_changes_the_text(model: Any) -> None:
    prompt = torch.tensor([[1, 2, 3, 4]])
    arguments: dict[str, Any] = {"gen_length": 12, "steps": 6}
    plain = generate(model, prompt, **arguments).sequences
    assert generate(model, prompt, cfg_scale=0.0, **arguments).sequences.equal(plain)
    assert not generate(model, prompt, cfg_scale=4.0, **arguments).sequences.equal(plain)


@pytest.fixture
def shapes(make_model: Any) -> Any:
    """A model, and the shapes of the ids of all its forwards."""
    model = make_model()
    seen: list[tuple[int, ...]] = []
    model.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    return model, seen


def test_rows_that_are_finished_leave_the_batch(shapes: Any) -> None:
    model, seen = shapes
    gaps = torch.tensor([[1, MASK, 3, 4, 5, 6, 7, 8], [1, MASK, MASK, 4, MASK, 6, MASK, 8]])
    generate(model, gaps, gen_length=0, steps=4, block_length=8)
    assert seen == [(2, 8), (1, 8), (1, 8), (1, 8)]


def test_a_cached_prompt_does_not_go_through_the_model_again(shapes: Any) -> None:
    model, seen = shapes
    arguments: dict[str, Any] = {"gen_length": 8, "steps": 4, "block_length": 4, "cfg_scale": 1.0}
    generate(model, torch.tensor([[1, 2, 3]]), attention_bias=BlockAttention(), cache="prompt", **arguments)
    assert seen == [(2, 3), *[(2, 4)] * 4]
    seen.clear()
    generate(model, torch.tensor([[1, 2, 3]]), attention_bias=BlockCausalAttention(), **arguments)
    assert seen == [(2, 3), (2, 4), (2, 4), (2, 4), (2, 4), (2, 4)], "one forward keeps the finished block"


def test_the_head_runs_at_the_masked_positions_of_the_active_block_only(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    project = candidates._project
    monkeypatch.setattr(
        candidates, "_project", lambda head, hidden: (sizes.append(len(hidden)), project(head, hidden))[1]
    )
    generate(model, torch.tensor([[1, 2, 3]]), gen_length=8, steps=8, block_length=4)
    assert sizes == [4, 3, 2, 1, 4, 3, 2, 1]


@pytest.mark.parametrize("bias", [None, torch.linspace(-3, 3, 50, dtype=torch.float64)])
@pytest.mark.parametrize("num_positions", [1, 12, 13])
def test_a_few_rows_on_the_cpu_get_the_logits_of_the_head(bias: Any, num_positions: int) -> None:
    head = torch.nn.Linear(16, 50, bias=bias is not None).double()
    if bias is not None:
        head.bias.data = bias
    hidden = torch.randn(num_positions, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = candidates._project(head, hidden)
        torch.testing.assert_close(logits, head(hidden))
    assert logits.is_contiguous()
