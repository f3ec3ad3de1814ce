"""A model trained with a bias and one that is sampled from see the same masks, asserted on what reaches the body."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import dlm
from dlm.model.body_and_head import split
from dlm.model.layer_masks import attention_modules
from dlm.training.engine import Engine

BLOCK_LENGTH = 4


def recorded_masks(body: Any, call: Any) -> list[tuple[Tensor, Any]]:
    """(ids, who sees whom) of every forward of ``body`` in ``call()``: (B, D, Q, K) bool for each of D attention
    modules, whatever form their masks have; None where they all got none.
    """
    ids: list[Tensor] = []
    seen: list[list[Tensor | None]] = []

    def start(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        ids.append(kwargs["input_ids"].clone())
        seen.append([])

    def record(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        mask = kwargs["attention_mask"]
        seen[-1].append(mask if mask is None or mask.dtype == torch.bool else mask == 0)

    handles = [body.register_forward_pre_hook(start, with_kwargs=True)]
    call_order = attention_modules(body)
    try:
        # The hooks that give each layer its own mask are there after the first call only.
        call()
        ids.clear()
        seen.clear()
        handles += [module.register_forward_pre_hook(record, with_kwargs=True) for module in call_order]
        call()
    finally:
        for handle in handles:
            handle.remove()
    return [(each, stacked(masks)) for each, masks in zip(ids, seen, strict=True)]


def stacked(masks: list[Tensor | None]) -> Tensor | None:
    given = [mask for mask in masks if mask is not None]
    if not given:
        return None
    return torch.cat([torch.ones_like(given[0]) if mask is None else mask for mask in masks], dim=1)


def sampled_masks(model: Any, ids: Tensor, num_prompt: int, **settings: Any) -> list[Tensor]:
    """Masks of every forward that writes the answer of a row (L,). Nothing is said about attention or blocks."""
    num_answer = len(ids) - num_prompt
    settings = {"gen_length": num_answer, "steps": num_answer, "cache": "off", **settings}
    seen = recorded_masks(split(model).body, lambda: dlm.generate(model, ids[None, :num_prompt], **settings))
    return [mask for _, mask in seen]


def attention(bias: str) -> dict[str, Any]:
    return {"training.block_attention": {"enabled": True, "block_length": BLOCK_LENGTH, "bias": bias}}


def trained(bench: Any, changes: dict[str, Any]) -> Engine:
    """The engine of a run that went to its end; the model is in its folder ``final``."""
    engine = bench.engine({"training.batch_size": 8, **changes})
    engine.saver.folder.path.parent.mkdir(exist_ok=True)
    dlm.run(bench.folder / "run.yaml")
    return engine


def training_rows(engine: Engine) -> list[tuple[Tensor, Tensor, int]]:
    """Ids, attention mask (D, Q, K) and prompt length of every row of the first step, without their padding."""
    (batch,) = next(iter(engine.data.loader.steps())).micro_batches
    noised = engine.step.forward_process(batch, step=0, num_rows=8)
    ((ids, mask),) = recorded_masks(engine.step.objective.body, lambda: engine.step.objective(noised))
    rows = []
    for row in (batch.row_index >= 0).nonzero()[:, 0].tolist():
        real = (batch.document_id[row] >= 0).repeat(ids.shape[1] // batch.input_ids.shape[1])
        rows.append(
            (
                batch.input_ids[row][batch.document_id[row] >= 0],
                mask[row][:, real][..., real],
                int(batch.answer_start[row, 0]),
            )
        )
    return rows


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("bias", ["block", "alternating"])
def test_sampling_uses_the_masks_of_training(bench, bias: str, implementation: str) -> None:
    engine = trained(bench, {**attention(bias), "model.attn_implementation": implementation})
    model = dlm.load(engine.saver.folder.final, attn_implementation=implementation)
    rows = training_rows(engine)
    assert len({len(ids) for ids, _, _ in rows}) > 1
    num_with_blocks = 0
    for ids, mask, num_prompt in rows:
        seen = sampled_masks(model, ids, num_prompt)
        assert len(seen) == len(ids) - num_prompt
        assert all(torch.equal(sampled[0], mask) for sampled in seen)
        assert not mask[0, 0, num_prompt]  # the answer from the prompt
        if len(ids) - num_prompt > BLOCK_LENGTH:
            assert not mask[0, num_prompt, -1]  # the last block from the first
            num_with_blocks += 1
    assert num_with_blocks > 0


def test_prompts_of_several_lengths_sampled_together(bench) -> None:
    """Padding is on the right in training and on the left in sampling; what is between is the same."""
    engine = trained(bench, attention("block"))
    model = dlm.load(engine.saver.folder.final)
    rows = [(ids, mask, start) for ids, mask, start in training_rows(engine) if len(ids) - start > 8][:3]
    width = max(start for _, _, start in rows)
    prompts = torch.stack(
        [torch.cat((torch.zeros(width - start, dtype=torch.long), ids[:start])) for ids, _, start in rows]
    )
    real = torch.stack([torch.arange(width) >= width - start for _, _, start in rows]).long()
    assert not real.all()
    seen = recorded_masks(
        split(model).body,
        lambda: dlm.generate(model, prompts, attention_mask=real, gen_length=8, steps=8, cache="off"),
    )
    for _, sampled in seen:
        for row, (_, mask, start) in enumerate(rows):
            assert torch.equal(sampled[row, :, width - start :, width - start :], mask[:, : start + 8, : start + 8])


def test_a_cache_of_the_prompt_leaves_out_only_what_is_hidden(bench) -> None:
    engine = trained(bench, attention("block"))
    model = dlm.load(engine.saver.folder.final)
    ids, mask, num_prompt = max(training_rows(engine), key=lambda row: len(row[0]))
    prefill, *steps = sampled_masks(model, ids, num_prompt, cache="prompt")
    assert torch.equal(prefill[0], mask[:, :num_prompt, :num_prompt])
    for step, sampled in enumerate(steps):
        start = num_prompt + step // BLOCK_LENGTH * BLOCK_LENGTH
        block = torch.arange(start, min(start + BLOCK_LENGTH, len(ids)))
        given = torch.cat((torch.arange(num_prompt), block))
        assert torch.equal(sampled[0], mask[:, block][..., given])
        assert torch.equal(sampled[0].sum(dim=-1), mask[:, block].sum(dim=-1))


def test_blocks_side_by_side_see_what_they_saw_in_training(bench) -> None:
    engine = trained(bench, attention("block"))
    model = dlm.load(engine.saver.folder.final)
    ids, mask, num_prompt = max(training_rows(engine), key=lambda row: len(row[0]))
    _, *steps = sampled_masks(model, ids, num_prompt, cache="side_by_side")
    assert len(steps) == BLOCK_LENGTH
    assert all(torch.equal(sampled[0], mask[:, num_prompt:]) for sampled in steps)


def test_block_diffusion_sees_the_same_texts(bench) -> None:
    """``block_causal`` trains on [noisy | clean]: a block sees the same positions in both, and as noisy or clean."""
    engine = trained(bench, attention("block_causal"))
    model = dlm.load(engine.saver.folder.final)
    for ids, mask, num_prompt in training_rows(engine):
        length = len(ids)
        noisy_half, clean_half = mask[0, :length, :length], mask[0, :length, length:]
        for step, sampled in enumerate(sampled_masks(model, ids, num_prompt)):
            block = step // BLOCK_LENGTH
            active = slice(num_prompt + block * BLOCK_LENGTH, num_prompt + (block + 1) * BLOCK_LENGTH)
            trained_rows = noisy_half[active] | clean_half[active]
            assert torch.equal(sampled[0, 0, active], trained_rows)
            assert torch.equal(noisy_half[active].any(dim=0).nonzero()[:, 0], torch.arange(length)[active])


def test_blocks_from_the_prompt_are_trained_sampled_and_cached_alike(bench) -> None:
    """``origin: document``: a block may hold the end of the prompt and the start of the answer."""
    changes = attention("block_causal")
    changes["training.block_attention"]["origin"] = "document"
    engine = trained(bench, changes)
    model = dlm.load(engine.saver.folder.final)
    assert model.config.block_origin == "document"
    (batch,) = next(iter(engine.data.loader.steps())).micro_batches
    prompts = (~batch.eligible & (batch.document_id >= 0)).sum(dim=1).tolist()
    assert any(length % BLOCK_LENGTH for length in prompts)
    assert not batch.answer_start.any()
    for (ids, mask, _), num_prompt in zip(training_rows(engine), prompts, strict=True):
        length = len(ids)
        block = torch.arange(length) // BLOCK_LENGTH
        noisy_half, clean_half = mask[0, :length, :length], mask[0, :length, length:]
        assert torch.equal(noisy_half, block[:, None] == block)
        assert torch.equal(clean_half, block[:, None] > block)
        sampled = sampled_masks(model, ids, num_prompt)
        assert len(sampled) == length - num_prompt
        for place, seen in enumerate(sampled, start=num_prompt):
            # One token a step: step and block go up together. Clean before, noisy within.
            active = slice(place // BLOCK_LENGTH * BLOCK_LENGTH, (place // BLOCK_LENGTH + 1) * BLOCK_LENGTH)
            assert torch.equal(seen[0, 0, active, :length], (noisy_half | clean_half)[active])
    ids, num_prompt = training_rows(engine)[0][0], prompts[0]
    wide = dlm.load(engine.saver.folder.final, dtype="float64")
    texts = [
        dlm.generate(wide, ids[None, :num_prompt], gen_length=12, steps=12, eos="free", cache=cache).sequences
        for cache in ("off", "prompt")
    ]
    assert torch.equal(*texts)


def test_full_attention_needs_no_mask_in_either(bench) -> None:
    engine = trained(bench, {"training.batch_size": 1})
    model = dlm.load(Path(engine.saver.folder.final))
    (batch,) = next(iter(engine.data.loader.steps())).micro_batches
    noised = engine.step.forward_process(batch, step=0, num_rows=1)
    training = recorded_masks(engine.step.objective.body, lambda: engine.step.objective(noised))
    prompt = batch.input_ids[:, : int(batch.answer_start[0, 0])]
    sampling = recorded_masks(split(model).body, lambda: dlm.generate(model, prompt, gen_length=4, steps=4))
    assert [mask for _, mask in training + sampling] == [None] * 5
