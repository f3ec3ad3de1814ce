"""Bound and chain rule against full enumeration, written out from the definitions, under every built-in attention."""

from collections.abc import Callable, Iterator
from itertools import combinations, product
from math import comb, exp
from typing import Any

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

import dlm
from dlm.errors import UserInputError

NUM_IDS = 6
CONTEXT, TEXT, BLOCK = [3, 0, 5], [1, 4, 4, 2], 2
BIASES = {
    "full": {},
    "block": {"attention_bias_component": {"name": "block"}, "block_length": BLOCK},
    "block_causal": {"attention_bias_component": {"name": "block_causal"}, "block_length": BLOCK},
    "alternating": {"attention_bias_component": {"name": "alternating"}, "block_length": BLOCK},
}
CASES = [(name, shift) for name in BIASES for shift in (False, True) if not (shift and name == "block")]


def block_of(position: int, start: int) -> int:
    return max((position - start) // BLOCK, -1)


Sees = Callable[[int, int, int, int], bool]
"""Layer, query, key, context length."""
SEES: dict[str, Sees] = {
    "full": lambda layer, query, key, start: True,
    "block": lambda layer, query, key, start: key < start or block_of(query, start) == block_of(key, start),
    "block_causal": lambda layer, query, key, start: block_of(key, start) <= block_of(query, start),
}
SEES["alternating"] = lambda layer, query, key, start: SEES["full" if layer % 2 else "block"](layer, query, key, start)


def cross_entropies(model: Any, name: str, ids: list[int], start: int, hidden: set[int], length: int) -> torch.Tensor:
    """(length,) of the ids up to ``length`` with some hidden: one forward, the masks put on each layer by hand."""
    noisy = torch.tensor([[model.config.mask_token_id if i in hidden else ids[i] for i in range(length)]])
    table = [
        torch.tensor([[SEES[name](layer, query, key, start) for key in range(length)] for query in range(length)])
        for layer in range(model.config.num_hidden_layers)
    ]
    masks = [torch.zeros(length, length, dtype=torch.float64).masked_fill(~each, -torch.inf) for each in table]

    def put(layer: int) -> Callable[..., Any]:
        return lambda module, args, kwargs: (args, {**kwargs, "attention_mask": masks[layer][None, None]})

    hooks = [
        layer.self_attn.register_forward_pre_hook(put(index), with_kwargs=True)
        for index, layer in enumerate(model.model.layers)
    ]
    with torch.no_grad():
        logits = model(input_ids=noisy, attention_mask=masks[0][None, None]).logits[0]
    for hook in hooks:
        hook.remove()
    logits[:, model.config.mask_token_id] = -torch.inf
    if model.config.logit_shift:
        logits = torch.cat((logits[:1], logits[:-1]))
    return -logits.log_softmax(dim=-1)[torch.arange(length), torch.tensor(ids[:length])]


def parts(name: str, start: int, stop: int) -> Iterator[tuple[list[int], int]]:
    """Positions whose subsets are enumerated together, and how much of the text they see: block by block, or all."""
    if name != "block_causal":
        yield list(range(start, stop)), stop
        return
    for first in range(start, stop, BLOCK):
        yield list(range(first, min(first + BLOCK, stop))), min(first + BLOCK, stop)


def enumerated_bound(model: Any, name: str, context: list[int], text: list[int]) -> float:
    ids, start = context + text, len(context)
    total = 0.0
    for positions, seen in parts(name, start, len(ids)):
        size = len(positions)
        for k in range(1, size + 1):
            for subset in combinations(positions, k):
                losses = cross_entropies(model, name, ids, start, set(subset), seen)
                total += float(losses[list(subset)].sum()) * size / k / size / comb(size, k)
    return total


def read_left_to_right(model: Any, name: str, context: list[int], text: list[int]) -> float:
    ids, start = context + text, len(context)
    total = 0.0
    for positions, seen in parts(name, start, len(ids)):
        for index, position in enumerate(positions):
            total += float(cross_entropies(model, name, ids, start, set(positions[index:]), seen)[position])
    return total


@pytest.mark.parametrize(("name", "shift"), CASES)
@pytest.mark.parametrize("context", [CONTEXT, []], ids=["context", "none"])
def test_bound_and_chain_rule_equal_what_is_enumerated(
    make_model: Any, name: str, shift: bool, context: list[int]
) -> None:
    model = make_model(logit_shift=shift, **BIASES[name])
    for text in (TEXT, TEXT[:3], TEXT[:1]):
        found = dlm.log_likelihood(model, [context], [text])
        assert bool(found.is_exact[0])
        assert float(found.standard_errors[0]) == 0
        assert -float(found.values[0]) == pytest.approx(enumerated_bound(model, name, context, text), abs=1e-12)
        chain = dlm.log_likelihood(model, [context], [text], method="chain_rule")
        # Blocks that do not see each other are read side by side, which is the same.
        assert -float(chain.values[0]) == pytest.approx(read_left_to_right(model, name, context, text), abs=1e-12)


@pytest.mark.parametrize("name", ["full", "block_causal"])
def test_the_chain_rule_is_a_distribution_and_the_bound_is_below_it(make_model: Any, name: str) -> None:
    model = make_model(**BIASES[name])
    texts = [list(text) for text in product(range(6), repeat=3)]
    contexts = [CONTEXT] * len(texts)
    chain = dlm.log_likelihood(model, contexts, texts, method="chain_rule").values
    bound = dlm.log_likelihood(model, contexts, texts).values
    assert float(chain.exp().sum()) == pytest.approx(1, abs=1e-12)
    assert 0.2 < float(bound.exp().sum()) < 1


def test_blocks_of_one_token_are_an_autoregressive_model_in_one_forward(make_model: Any) -> None:
    model = make_model(attention_bias_component={"name": "block_causal"}, block_length=1)
    texts = [list(text) for text in product(range(6), repeat=3)]
    found = dlm.log_likelihood(model, [[]] * len(texts), texts)
    assert found.num_rows == len(texts)
    assert float(found.values.exp().sum()) == pytest.approx(1, abs=1e-12)


def test_blocks_count_from_the_start_of_the_text_where_they_did_in_training(make_model: Any) -> None:
    model = make_model(**BIASES["block_causal"], block_origin="document")
    whole = CONTEXT + TEXT
    # The first block of the continuation holds the last token of the context: one token is left to mask.
    total = 0.0
    for positions, seen in (([3], 4), ([4, 5], 6), ([6], 7)):
        for k in range(1, len(positions) + 1):
            for subset in combinations(positions, k):
                losses = cross_entropies(model, "block_causal", whole, 0, set(subset), seen)
                total += float(losses[list(subset)].sum()) / k / comb(len(positions), k)
    found = dlm.log_likelihood(model, [CONTEXT], [TEXT])
    assert -float(found.values[0]) == pytest.approx(total, abs=1e-12)


def test_all_masked_is_one_forward(make_model: Any) -> None:
    model = make_model()
    found = dlm.log_likelihood(model, [CONTEXT], [TEXT], method="all_masked")
    losses = cross_entropies(model, "full", CONTEXT + TEXT, 3, {3, 4, 5, 6}, 7)
    assert found.num_rows == 1
    assert -float(found.values[0]) == pytest.approx(float(losses[3:].sum()), abs=1e-12)


@pytest.mark.parametrize("name", BIASES)
def test_autoregressive_is_the_likelihood_of_the_decoder_that_the_weights_are_of(make_model: Any, name: str) -> None:
    model = make_model(**BIASES[name])
    config = {key: value for key, value in model.config.to_dict().items() if key in Qwen3Config().to_dict()}
    decoder: Any = Qwen3ForCausalLM(Qwen3Config(**config | {"is_causal": True})).to(torch.float64).eval()
    decoder.load_state_dict(model.state_dict())
    texts = [list(text) for text in product(range(6), repeat=2)] + [TEXT, TEXT[:1]]
    contexts = [CONTEXT, CONTEXT[:1]] * (len(texts) // 2)
    found = dlm.log_likelihood(model, contexts, texts, method="autoregressive")
    for context, text, value in zip(contexts, texts, found.values.tolist(), strict=True):
        with torch.no_grad():
            logits = decoder(input_ids=torch.tensor([context + text])).logits[0, :, :NUM_IDS].log_softmax(dim=-1)
        expected = logits[len(context) - 1 : -1].gather(1, torch.tensor(text)[:, None]).sum()
        assert value == pytest.approx(float(expected), abs=1e-12)
    assert found.num_rows == len(texts)
    assert bool(found.is_exact.all())
    with pytest.raises(UserInputError, match="autoregressive scores what follows a context, and a text has none"):
        dlm.log_likelihood(model, [CONTEXT, []], [TEXT, TEXT], method="autoregressive")


def test_perplexity_is_the_bound_a_token_and_scores_every_token_of_a_long_text_once(make_model: Any) -> None:
    model = make_model()
    found = dlm.perplexity(model, [TEXT, CONTEXT])
    expected = (enumerated_bound(model, "full", [], TEXT) + enumerated_bound(model, "full", [], CONTEXT)) / 7
    assert found.nats_per_token.value == pytest.approx(expected, abs=1e-12)
    assert found.perplexity == pytest.approx(exp(expected))
    assert (found.nats_per_token.draws, found.overlap, found.num_windows) == (0, 0, 2)
    long = [0, 1, 2, 3, 4, 5, 0, 1, 2]
    windowed = dlm.perplexity(model, [long], window=4)
    pieces = [([], long[:4]), (long[2:4], long[4:6]), (long[4:6], long[6:8]), (long[6:8], long[8:])]
    assert windowed.nats_per_token.value * 9 == pytest.approx(
        sum(enumerated_bound(model, "full", before, after) for before, after in pieces), abs=1e-12
    )
    assert (windowed.num_windows, windowed.overlap, windowed.num_tokens) == (4, 2, 9)
