"""In the same state a position has the same logits in training and in sampling, under every attention and shift."""

from collections.abc import Iterator
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

import dlm
from dlm.config.components_in_effect import reason_against_shift
from dlm.config.sampling_settings import CacheOptions
from dlm.diffusion.forward_process import NoisedBatch
from dlm.errors import UserInputError
from dlm.sampling.cache_choice import choose_way
from dlm.sampling.canvas import Canvas
from dlm.sampling.decoder import Decoder
from dlm.sampling.full_forward import Runner
from dlm.sampling.plan import plan
from dlm_plugins import AttentionBias
from dlm_plugins.attention_bias import BLOCKS_ARE_INDEPENDENT, NEEDS_CLEAN_COPY, PREFIX_IS_STATIC
from dlm_plugins.registry import Registry

BIASES: dict[str, AttentionBias] = {
    entry.name: entry.cls() for entry in Registry.discover().entries("attention_bias") if entry.plugin == "builtin"
}
PAIRS = [
    (name, shift)
    for name, bias in BIASES.items()
    for shift in (False, True)
    if not (shift and reason_against_shift(bias))
]
CACHES = {"off": None, "prompt": PREFIX_IS_STATIC, "side_by_side": BLOCKS_ARE_INDEPENDENT}
"""The exact ones, each with the claim that it needs."""
DOCUMENTS = {
    # Number of given tokens; documents of two rows.
    "pretrain": (0, ((5, 4), (3,))),
    "continue": (2, ((5, 4), (3,))),
    "sft": (None, (((6, 4), (4, 3)), ((4, 4),))),
}


@attrs.frozen(kw_only=True)
class Text:
    """What sampling would see of a row: one document, or all of them where they are one text."""

    row: int
    columns: slice
    num_given: int


def texts(noised: NoisedBatch, num_given: int | None, *, whole_rows: bool) -> Iterator[Text]:
    batch = noised.clean
    for row, documents in enumerate(batch.document_id.tolist()):
        for number in range(1 if whole_rows else max(documents) + 1):
            length = sum(each >= 0 for each in documents) if whole_rows else documents.count(number)
            start = documents.index(number)
            given = int(batch.answer_start[row, start]) if num_given is None else num_given
            yield Text(row=row, columns=slice(start, start + length), num_given=0 if whole_rows else given)


def sampled_logits(
    model: Any, bias: AttentionBias, clean: Tensor, noisy: Tensor, num_given: int, cache: str, **layout: Any
) -> Tensor:
    """(L, V) logits along the path of sampling, on which each block is once as in ``noisy``; zero where given."""
    decoder = Decoder.of(model, bias)
    canvas = Canvas.build(
        clean[None, :num_given],
        None,
        gen_length=len(clean) - num_given,
        mask_id=model.config.mask_token_id,
        dtype=torch.float64,
        **layout,
    )
    sees_no_noise = NEEDS_CLEAN_COPY.of(bias) or BLOCKS_ARE_INDEPENDENT.of(bias)
    way = choose_way(CacheOptions(name=cache), Runner(decoder=decoder, canvas=canvas, cfg_scale=0.0))
    logits = torch.zeros(len(clean), decoder.head.out_features, dtype=torch.float64)
    for wave in plan(canvas, len(clean), side_by_side=way.side_by_side):
        active = torch.cat([stage.columns[stage.valid] for stage in wave])
        at = active if sees_no_noise else torch.arange(len(clean))
        canvas.ids[0, at] = noisy[at]
        way.forward.begin(wave)
        row = torch.zeros_like(active)
        hidden = way.forward.hidden(torch.tensor([0]), row, canvas.source_of(row, active, decoder.shift))
        logits[active] = decoder.head(hidden)
        canvas.ids[0, active] = clean[active]
        way.forward.end(wave)
    return logits


@pytest.fixture(scope="module")
def models(lab) -> dict[bool, Any]:
    return {shift: lab.model(logit_shift=shift) for shift in (False, True)}


@torch.no_grad()
@pytest.mark.parametrize("block_length", [1, 3])
@pytest.mark.parametrize("isolate", [True, False])
@pytest.mark.parametrize("case", DOCUMENTS)
@pytest.mark.parametrize(("name", "shift"), PAIRS)
def test_the_logits_of_training_are_those_of_sampling(
    lab, docs, models: dict[bool, Any], name: str, shift: bool, case: str, isolate: bool, block_length: int
) -> None:
    bias = BIASES[name]
    num_given, rows = DOCUMENTS[case]
    whole_rows = name == "full" and not isolate
    if not (isolate or whole_rows or NEEDS_CLEAN_COPY.of(bias)):
        # Documents see each other by blocks, as no text that is sampled does: one document a row.
        rows = tuple(row[:1] for row in rows)
    model = models[shift]
    noised = lab.noised(
        lab.batch(*(docs(*row) for row in rows), isolate=isolate), num_rows=2, block_length=block_length
    )
    if num_given:
        given = noised.clean.position < num_given
        noised = attrs.evolve(noised, noisy_ids=torch.where(given, noised.clean.input_ids, noised.noisy_ids))
    trained = model.lm_head(lab.hidden(model, noised, bias=bias, block_length=block_length, logit_shift=shift))
    caches = [cache for cache, claim in CACHES.items() if claim is None or claim.of(bias)]
    for text in texts(noised, num_given, whole_rows=whole_rows):
        at = text.row, text.columns
        # Rotary angles are float32: where positions do not start again, they are others by rounding.
        tolerance = 1e-10 if isolate or text.columns.start == 0 else 1e-5
        for cache in caches:
            found = sampled_logits(
                model,
                bias,
                noised.clean.input_ids[at],
                noised.noisy_ids[at],
                text.num_given,
                cache,
                block_length=block_length,
                blocks_from_start=case != "sft",
            )
            expected = trained[at].clone()
            if not whole_rows:
                expected[: text.num_given] = found[: text.num_given]
            torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("bias", ["block", {"name": "alternating", "first": "block", "second": "block"}])
def test_a_shift_across_blocks_that_do_not_see_each_other_is_refused(lab, bias: Any) -> None:
    with pytest.raises(UserInputError, match=r"logit_shift does not go with .*use full or block_causal"):
        dlm.generate(lab.model(logit_shift=True), torch.tensor([[9]]), gen_length=4, steps=4, attention_bias=bias)
