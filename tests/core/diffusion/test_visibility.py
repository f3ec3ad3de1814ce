"""Who sees whom in training: truth tables written by hand, and the model's own answer to what moves when this does."""

from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

from dlm.diffusion.forward_process import NoisedBatch
from dlm.diffusion.layout import block_of, training_layout, with_clean_copy
from dlm.model.attention import Visibility

# eager takes its softmax in float32, whatever the model's dtype.
CLOSE = {"sdpa": {"rtol": 1e-10, "atol": 1e-10}, "eager": {"rtol": 1e-4, "atol": 1e-5}}
IMPLEMENTATIONS = pytest.mark.parametrize("implementation", ["sdpa", "eager"])


def table(text: str) -> Tensor:
    """(Q, K) bool: 1 where the query of the line sees the key of the column."""
    return torch.tensor([[mark == "1" for mark in line.split()] for line in text.strip().splitlines()])


def with_ids(noised: NoisedBatch, row: int, position: int, *, noisy: bool = True, clean: bool = True) -> NoisedBatch:
    """Another id at one place."""
    ids, noisy_ids = noised.clean.input_ids.clone(), noised.noisy_ids.clone()
    if clean:
        ids[row, position] = (ids[row, position] + 17) % 80 + 8
    if noisy:
        noisy_ids[row, position] = (noisy_ids[row, position] + 17) % 80 + 8
    return attrs.evolve(noised, clean=attrs.evolve(noised.clean, input_ids=ids), noisy_ids=noisy_ids)


def moved_by(
    lab: Any, model: Any, noised: NoisedBatch, place: int, changes: dict[str, bool], **settings: Any
) -> Tensor:
    """(L,) which positions of row 0 move at all, in float64, when one id changes."""
    before = lab.hidden(model, noised, **settings)[0]
    return (lab.hidden(model, with_ids(noised, 0, place, **changes), **settings)[0] != before).any(dim=1)


@IMPLEMENTATIONS
@pytest.mark.parametrize("isolate", [True, False])
def test_isolated_documents_see_nothing_of_each_other(lab, docs, implementation: str, isolate: bool) -> None:
    model = lab.model(implementation=implementation)
    batch = lab.batch(docs(5, 3, 6), isolate=isolate, max_length=16)
    noised = lab.noised(batch)
    for place in range(14):
        moved = moved_by(lab, model, noised, place, {}, implementation=implementation)
        own = batch.document_id[0] == batch.document_id[0, place]
        expected = own if isolate else torch.ones_like(own)
        assert torch.equal(moved[:14], expected[:14])


@IMPLEMENTATIONS
def test_an_isolated_document_is_the_document_alone(lab, docs, implementation: str) -> None:
    model = lab.model(implementation=implementation)
    noised = lab.noised(lab.batch(docs(5, 3, 6), docs(4), isolate=True))
    hidden = lab.hidden(model, noised, implementation=implementation)
    for start, end in ((0, 5), (5, 8), (8, 14)):
        with torch.no_grad():
            alone = model.model(input_ids=noised.noisy_ids[:1, start:end]).last_hidden_state
        torch.testing.assert_close(hidden[:1, start:end], alone, **CLOSE[implementation])


@IMPLEMENTATIONS
def test_padding_is_seen_by_nobody(lab, docs, implementation: str) -> None:
    model = lab.model(implementation=implementation)
    noised = lab.noised(lab.batch(docs(12), docs(7), max_length=15), num_rows=2)
    for place in range(12, 15):
        assert not moved_by(lab, model, noised, place, {}, implementation=implementation)[:12].any()
    shorter = lab.noised(lab.batch(docs(12), docs(7)), num_rows=2)
    both = [lab.hidden(model, each, implementation=implementation) for each in (noised, shorter)]
    for row, length in ((0, 12), (1, 7)):
        torch.testing.assert_close(both[0][row, :length], both[1][row, :length], **CLOSE[implementation])


def test_both_backends_agree_under_every_bias(lab, docs) -> None:
    noised = lab.noised(lab.batch(docs((12, 9)), docs((5, 2), (6, 4)), None, isolate=True), num_rows=2)
    for name in ("full", "block", "block_causal", "alternating"):
        bias = lab.component("attention_bias", name)
        sdpa, eager = (
            lab.hidden(lab.model(implementation=each), noised, implementation=each, bias=bias)
            for each in ("sdpa", "eager")
        )
        assert bool(torch.isfinite(sdpa).all())
        for row, length in ((0, 12), (1, 11)):
            torch.testing.assert_close(sdpa[row, :length], eager[row, :length], **CLOSE["eager"])


def test_blocks_count_from_the_answer_and_in_pretraining_from_the_document(lab, docs) -> None:
    sft = lab.batch(docs((7, 5), (4, 1)), max_length=12)
    assert block_of(sft, 2)[0, :11].tolist() == [-1, -1, 0, 0, 1, 1, 2, -1, -1, -1, 0]
    pretrain = lab.batch(docs(5, 3))
    assert block_of(pretrain, 2)[0].tolist() == [0, 0, 1, 1, 2, 0, 0, 1]


def visible(lab: Any, batch: Any, bias: str, block_length: int) -> Tensor:
    layout = training_layout(batch, block_length)
    component = lab.component("attention_bias", bias)
    found = Visibility(
        layout=layout,
        bias=component,
        isolate_documents=batch.isolate_documents,
        has_padding=bool((batch.document_id < 0).any()),
    ).dense()
    assert found is not None
    return found[0]


BLOCK_SFT = """
1 1 0 0 0 0
1 1 0 0 0 0
1 1 1 1 0 0
1 1 1 1 0 0
1 1 0 0 1 0
0 0 0 0 0 0
"""
"""Two prompt tokens, three of the answer in blocks of two, one of padding."""

BLOCK_PRETRAIN = """
1 1 0 0 0
1 1 0 0 0
0 0 1 0 0
0 0 0 1 1
0 0 0 1 1
"""
"""Documents of three and two tokens: block 0 of one document is not block 0 of the other."""

BLOCK_TWO_PROMPTS = """
1 0 0 0
1 1 0 0
0 0 1 0
0 0 1 1
"""
"""Two isolated conversations of one prompt token and one answer token."""


def test_block_attention_equals_a_table_written_by_hand(lab, docs) -> None:
    real = slice(0, 5)
    sft = visible(lab, lab.batch(docs((5, 3)), max_length=6), "block", 2)
    assert torch.equal(sft[real], table(BLOCK_SFT)[real])
    assert torch.equal(visible(lab, lab.batch(docs(3, 2)), "block", 2), table(BLOCK_PRETRAIN))
    isolated = visible(lab, lab.batch(docs((2, 1), (2, 1)), isolate=True), "block", 2)
    assert torch.equal(isolated, table(BLOCK_TWO_PROMPTS))


@IMPLEMENTATIONS
def test_block_attention_moves_what_the_table_says_in_one_layer(lab, docs, implementation: str) -> None:
    model = lab.model(implementation=implementation, num_hidden_layers=1)
    noised = lab.noised(lab.batch(docs((5, 3)), max_length=6))
    settings = {"bias": lab.component("attention_bias", "block"), "block_length": 2, "implementation": implementation}
    for key in range(5):
        moved = moved_by(lab, model, noised, key, {}, **settings)
        assert torch.equal(moved[:5], table(BLOCK_SFT)[:5, key])


def test_nothing_hidden_needs_no_mask(lab, docs) -> None:
    batch = lab.batch(docs(5, 3))
    full = lab.component("attention_bias", "full")
    layout = training_layout(batch, 4)
    assert Visibility(layout=layout, bias=full, isolate_documents=False, has_padding=False).dense() is None
    assert Visibility(layout=layout, bias=full, isolate_documents=True, has_padding=False).dense() is not None
    assert Visibility(layout=layout, bias=full, isolate_documents=False, has_padding=True).dense() is not None


BLOCK_DIFFUSION = """
1 1 0 0 0 0 0 0
1 1 0 0 0 0 0 0
0 0 1 1 1 1 0 0
0 0 1 1 1 1 0 0
0 0 0 0 1 1 0 0
0 0 0 0 1 1 0 0
0 0 0 0 1 1 1 1
0 0 0 0 1 1 1 1
"""
"""[noisy | clean], four tokens each, blocks of two (Arriola et al. 2025, figure 3)."""

BLOCK_DIFFUSION_SFT = """
1 0 0 0 0 0
0 1 0 1 0 0
0 0 1 1 1 0
0 0 0 1 0 0
0 0 0 1 1 0
0 0 0 1 1 1
"""
"""One prompt token, two answer tokens in blocks of one: the prompt is a block before the first."""


def test_the_clean_copy_equals_tables_written_by_hand(lab, docs) -> None:
    bias = lab.component("attention_bias", "block_causal")
    for batch, block_length, expected in (
        (lab.batch(docs(4)), 2, BLOCK_DIFFUSION),
        (lab.batch(docs((3, 2))), 1, BLOCK_DIFFUSION_SFT),
    ):
        layout = with_clean_copy(training_layout(batch, block_length))
        found = Visibility(layout=layout, bias=bias, isolate_documents=False, has_padding=False).dense()
        assert found is not None
        assert torch.equal(found[0], table(expected))
    assert layout.position.tolist() == [[0, 1, 2, 0, 1, 2]]
    assert layout.is_clean.tolist() == [[False, False, False, True, True, True]]


@IMPLEMENTATIONS
def test_a_noisy_block_sees_itself_and_clean_blocks_before_it(lab, docs, implementation: str) -> None:
    model = lab.model(implementation=implementation)
    settings = {
        "bias": lab.component("attention_bias", "block_causal"),
        "block_length": 3,
        "implementation": implementation,
    }
    noised = lab.noised(lab.batch(docs(9)))
    assert lab.hidden(model, noised, **settings).shape == (1, 9, 32)  # the head never sees the clean half
    block = torch.arange(9) // 3
    for place in range(9):
        by_clean = moved_by(lab, model, noised, place, {"noisy": False}, **settings)
        by_noisy = moved_by(lab, model, noised, place, {"clean": False}, **settings)
        assert torch.equal(by_clean, block > block[place])
        assert torch.equal(by_noisy, block == block[place])


def test_a_noisy_block_is_what_sampling_would_compute(lab, docs) -> None:
    """Block b after its clean prefix, one block at a time, as a sampler goes."""
    model = lab.model()
    noised = lab.noised(lab.batch(docs(9), docs(7)), num_rows=2)
    hidden = lab.hidden(model, noised, bias=lab.component("attention_bias", "block_causal"), block_length=3)
    for row, length in ((0, 9), (1, 7)):
        for start in range(0, length, 3):
            end = min(start + 3, length)
            ids = torch.cat((noised.clean.input_ids[row, :start], noised.noisy_ids[row, start:end]))[None]
            block = torch.arange(end) // 3
            bias = torch.where(block[:, None] >= block[None, :], 0.0, -torch.inf).double()
            with torch.no_grad():
                alone = model.model(input_ids=ids, attention_bias=bias[None, None]).last_hidden_state[0]
            torch.testing.assert_close(hidden[row, start:end], alone[start:], rtol=1e-10, atol=1e-10)


@IMPLEMENTATIONS
@pytest.mark.parametrize(
    ("bias", "layers"), [("alternating", ("block", "full", "block")), ("per_layer", ("block", "block", "full"))]
)
def test_layers_get_masks_of_their_own(lab, docs, implementation: str, bias: str, layers: tuple[str, ...]) -> None:
    model = lab.model(implementation=implementation, num_hidden_layers=3)
    noised = lab.noised(lab.batch(docs((9, 6))))
    settings = {"block_length": 3, "implementation": implementation}
    found = lab.hidden(model, noised, bias=lab.component("attention_bias", bias), **settings)
    by_hand = by_layer(lab, model, noised, implementation, layers)
    torch.testing.assert_close(found, by_hand, **CLOSE[implementation])
    for name in ("full", "block"):
        alone = lab.hidden(model, noised, bias=lab.component("attention_bias", name), **settings)
        assert not torch.allclose(found, alone, atol=1e-3)


def by_layer(lab: Any, model: Any, noised: NoisedBatch, implementation: str, layers: tuple[str, ...]) -> Tensor:
    """Layers called by hand, each under the mask that is named."""
    seen = visible(lab, noised.clean, "block", 3)[None, None]
    masks = {
        name: mask if implementation == "sdpa" else torch.where(mask, 0.0, -1e30)
        for name, mask in {"block": seen, "full": torch.ones_like(seen)}.items()
    }
    body, positions = model.model, torch.arange(9)[None]
    with torch.no_grad():
        hidden = body.embed_tokens(noised.noisy_ids)
        rotary = body.rotary_emb(hidden, positions)
        for layer, name in zip(body.layers, layers, strict=True):
            hidden = layer(hidden, attention_mask=masks[name], position_ids=positions, position_embeddings=rotary)
        return body.norm(hidden)
