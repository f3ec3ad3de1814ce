"""Positions that are predicted alike are written in their order, in every cache, batch and precision."""

import logging
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from dlm.sampling import blind_positions, candidates, generate, iter_generate

MASK = 49
BLIND: dict[str, Any] = {"attention_bias_component": {"name": "builtin:block"}, "block_origin": "document"}
"""Blocks that see themselves only: without a given token they see nothing but masks."""
REMASKERS = ["low_confidence", "random", "random_topk", "threshold", "factor", "entropy", "margin", "remdm"]


@pytest.fixture(scope="module")
def models(make_model: Any) -> list[Any]:
    """One for each block length from 1 to 6."""
    return [make_model(seed=length, block_length=length, **BLIND) for length in range(1, 7)]


@settings(deadline=None, max_examples=12)
@given(
    block_length=st.integers(1, 6),
    prompt_length=st.integers(0, 7),
    gen_length=st.integers(4, 8),
    num_steps=st.integers(0, 6),
    temperature=st.sampled_from([0.0, 0.7]),
    cfg_scale=st.sampled_from([0.0, 1.0]),
    remasking=st.sampled_from(REMASKERS),
    seed=st.integers(0, 3),
)
def test_blind_blocks_get_the_same_tokens_in_every_cache_and_batch(
    models: list[Any], block_length: int, prompt_length: int, gen_length: int, num_steps: int, seed: int, **options: Any
) -> None:
    model = models[block_length - 1]
    prompt = torch.randint(0, MASK, (3, prompt_length), generator=torch.Generator().manual_seed(seed))
    keys = torch.arange(3)
    num_blocks = -(-(prompt_length + gen_length) // block_length)
    arguments = {"gen_length": gen_length, "steps": num_blocks + num_steps, "seed": seed, **options}
    plain = generate(model, prompt, cache="off", **arguments)
    for cache in ("prompt", "side_by_side"):
        found = generate(model, prompt, cache=cache, **arguments)
        assert found.sequences.equal(plain.sequences), cache
    for rows in ([2], [2, 0, 1, 2, 0]):
        found = generate(model, prompt[rows], cache="off", row_keys=keys[rows], **arguments)
        assert found.sequences.equal(plain.sequences[rows])
        assert found.committed_step.equal(plain.committed_step[rows])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("remasking", ["low_confidence", "entropy", "margin", "random_topk"])
@pytest.mark.parametrize("chunk_elements", [50 * 7, 1 << 24])
def test_the_earlier_of_equal_predictions_is_written_first(
    make_model: Any,
    monkeypatch: pytest.MonkeyPatch,
    dtype: Any,
    remasking: str,
    chunk_elements: int,
) -> None:
    monkeypatch.setattr(candidates, "_CHUNK_ELEMENTS", chunk_elements)
    rule = {"name": remasking, "temperature": 0.0} if remasking == "random_topk" else remasking
    model = make_model(seed=1, dtype=dtype, block_length=10, **BLIND)
    prompt = torch.randint(0, MASK, (3, 10), generator=torch.Generator().manual_seed(0))
    arguments: dict[str, Any] = {"gen_length": 30, "steps": 12, "remasking": rule, "cache": "side_by_side"}
    _, first, *_ = iter_generate(model, prompt, **arguments)
    written = (first.committed_step[:, 10:] == 0).view(3, 3, 10).long()
    assert written.sum(dim=2).tolist() == [[3] * 3] * 3
    assert written.argmin(dim=2).tolist() == [[3] * 3] * 3, "the first positions of each block"


@pytest.mark.parametrize(("prompt_length", "num_lines"), [(4, 1), (5, 0), (7, 1)])
def test_blocks_that_will_not_follow_the_prompt_are_told_once(
    make_model: Any, caplog: pytest.LogCaptureFixture, prompt_length: int, num_lines: int
) -> None:
    blind_positions._tell_once.cache_clear()
    model = make_model(block_length=4, **BLIND)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            generate(model, torch.ones(1, prompt_length, dtype=torch.long), gen_length=3, steps=4)
    told = "this model's blocks see themselves only (BlockAttention, counted from the start of the text): "
    assert caplog.messages == [f"{told}blocks that hold no given token do not follow the prompt"] * num_lines


class AddsPositions(torch.nn.Module):
    """Token embeddings to which learned positions are added."""

    def __init__(self, tokens: torch.nn.Embedding) -> None:
        super().__init__()
        self.tokens = tokens
        self.positions = torch.randn(64, tokens.embedding_dim, generator=torch.Generator().manual_seed(0)).double()

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.tokens(ids) + self.positions[: ids.shape[1]]


@pytest.mark.parametrize("adds_positions", [False, True])
def test_blind_positions_are_alike_where_no_positions_are_added(make_model: Any, adds_positions: bool) -> None:
    model = make_model(seed=1, block_length=10, **BLIND)
    if adds_positions:
        model.model.embed_tokens = AddsPositions(model.model.embed_tokens)
    prompt = torch.randint(0, MASK, (1, 10), generator=torch.Generator().manual_seed(0))
    result = generate(model, prompt, gen_length=10, steps=1, cache="off")
    assert result.num_forwards == 1, "a trial is not counted"
    assert (len(set(result.sequences[0, 10:].tolist())) == 1) != adds_positions


class Operators(TorchDispatchMode):
    """Notes what is asked of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


def test_no_step_waits_for_the_device_to_find_what_is_alike(make_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    leaders, operators, found = blind_positions.Ties.leaders, Operators(), []

    def noted(self: blind_positions.Ties, *arguments: torch.Tensor) -> torch.Tensor | None:
        with operators:
            found.append(leaders(self, *arguments))
        return found[-1]

    monkeypatch.setattr(blind_positions.Ties, "leaders", noted)
    prompt = torch.randint(0, MASK, (1, 10), generator=torch.Generator().manual_seed(0))
    generate(make_model(block_length=10, **BLIND), prompt, gen_length=10, steps=4)
    assert len(found) == 4
    assert "cummax" in operators.names
    assert not operators.names & {"_local_scalar_dense", "nonzero", "is_nonzero"}
    generate(make_model(), prompt, gen_length=10, steps=4)
    assert found[4:] == [None] * 4
