"""The loss of a fine-tuning step against the guideline written out from the texts: every answer alone, full logits.

The guideline's text is the fine-tuning section of LLaDA's GUIDELINES (Nie et al. 2025): the prompt stays clean, the
cross-entropy at masked positions is divided by p and by the length of its answer, and averaged over answers.
"""

from collections import Counter
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dlm.diffusion.forward_process import NoisedBatch
from dlm.training.engine import Engine

CLOSE = {"rtol": 1e-6, "atol": 0.0}
ELBO = {"training.loss_impl": "elbo", "training.sft_noise.schedule": {"name": "uniform", "eps": 0.0}}
LOSSES: dict[str, dict[str, Any]] = {
    "guidelines": {"training.loss_impl": "guidelines"},
    "dllm": {"training.loss_impl": "dllm"},
    "soft_ce": {"training.loss_impl": "soft_ce"},
    "elbo": ELBO,
}
LAYOUTS: dict[str, dict[str, Any]] = {
    "padded, first": {},
    "padded, none": {"dataset.eos_padding": "none"},
    "padded, all, accumulated": {
        "dataset.eos_padding": "all",
        "training.batch_size": 2,
        "training.gradient_accumulation_steps": 3,
    },
    "packed, first": {"dataset.pack": True},
    "packed, none": {"dataset.pack": True, "dataset.eos_padding": "none"},
    "last answer": {"dataset.train_on": "last_answer"},
    "blocks": {"training.block_attention": {"enabled": True, "block_length": 4}},
}


@attrs.frozen
class Answer:
    """One answer with what comes before it, as ids."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


def expected_answers(conversations: Any, tokenizer: Any, *, end: bool, only_last: bool) -> list[Answer]:
    """Every answer of every conversation, put together by hand."""

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    answers = []
    for system, turns in conversations:
        history = [] if system is None else ids(system)
        found = []
        for question, answer in zip(turns[::2], turns[1::2], strict=True):
            history = history + ids(question)
            found.append(Answer(tuple(history), (*ids(answer), *([tokenizer.eos_token_id] if end else []))))
            history = history + ids(answer) + [tokenizer.eos_token_id]
        answers += found[-1:] if only_last else found
    return answers


def cross_entropy(loss: str, logits: Tensor, targets: Tensor, mask_id: int, num_ids: int) -> Tensor:
    """(n,), smoothed by 0.1 over the real ids for ``soft_ce``."""
    if loss != "soft_ce":
        return functional.cross_entropy(logits, targets, reduction="none")
    labels = torch.zeros_like(logits)
    labels[:, [number for number in range(num_ids) if number != mask_id]] = 0.1 / (num_ids - 1)
    labels[torch.arange(len(targets)), targets] += 0.9
    return -(labels * logits.log_softmax(dim=-1)).sum(dim=-1)


def visible_in_blocks(num_prompt: int, num_tokens: int, block_length: int) -> Tensor:
    """(1, 1, n, n): everybody sees the prompt, an answer also its own block."""
    block = [-1 if place < num_prompt else (place - num_prompt) // block_length for place in range(num_tokens)]
    return torch.tensor([[key == -1 or key == query for key in block] for query in block])[None, None]


class Guideline:
    """Adds up the loss of every answer of a step, run through the model by itself."""

    def __init__(self, engine: Engine, loss: str, block_length: int | None) -> None:
        self.engine, self.loss, self.block_length = engine, loss, block_length
        self.total = torch.zeros((), dtype=torch.float64)
        self.seen: list[Answer] = []

    def add(self, noised: NoisedBatch) -> None:
        batch = noised.clean
        for row in range(len(batch.row_index)):
            for number in batch.document_id[row].unique().tolist():
                if number >= 0:
                    self.add_document(noised, row, (batch.document_id[row] == number).nonzero()[:, 0])

    def add_document(self, noised: NoisedBatch, row: int, places: Tensor) -> None:
        model, tokenizer = self.engine.saver.objects.model, self.engine.saver.objects.tokenizer
        clean, noisy = noised.clean.input_ids[row, places], noised.noisy_ids[row, places]
        num_prompt = int(noised.clean.answer_start[row, places[0]])
        self.seen.append(Answer(tuple(clean[:num_prompt].tolist()), tuple(clean[num_prompt:].tolist())))
        visible = None
        if self.block_length is not None:
            visible = visible_in_blocks(num_prompt, len(places), self.block_length)
        logits = model(input_ids=noisy[None], attention_mask=visible).logits[0]
        t = noised.t[row, places].double()
        p = t.clamp(min=0.001) if self.loss == "elbo" else (1 - 0.001) * t + 0.001
        is_masked = noisy == tokenizer.mask_token_id
        scores = cross_entropy(self.loss, logits, clean, tokenizer.mask_token_id, len(tokenizer)) / p
        self.total = self.total + scores[is_masked].sum() / (len(places) - num_prompt)

    @property
    def value(self) -> Tensor:
        return self.total / len(self.seen)


def gradient_of(engine: Engine, scalar: Tensor) -> Tensor:
    """The gradient by all parameters, one after the other."""
    engine.saver.objects.model.zero_grad()
    scalar.backward()
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in engine.saver.objects.model.parameters()]
    return torch.cat([gradient.flatten() for gradient in gradients])


@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("loss", list(LOSSES))
def test_a_step_of_fine_tuning_has_the_guidelines_loss(bench, conversations, loss: str, layout: str) -> None:
    changes = LAYOUTS[layout]
    engine = bench.engine({**LOSSES[loss], **changes})
    eos = changes.get("dataset.eos_padding", "first")
    wanted = expected_answers(
        conversations,
        engine.saver.objects.tokenizer,
        end=eos != "none",
        only_last="dataset.train_on" in changes,
    )
    seen = []
    for number, step_batch in enumerate(engine.data.loader.steps()):
        if step_batch.epoch:
            break
        guideline = Guideline(engine, loss, 4 if layout == "blocks" else None)
        totals, sums = [], []
        for batch in step_batch.micro_batches:
            noised = engine.step.forward_process(batch, step=number, num_rows=step_batch.num_rows)
            total, sums_of_batch = engine.step.objective(noised)
            totals.append(total)
            sums.append(sums_of_batch)
            guideline.add(noised)
        ours = torch.stack(totals).sum() / sum(each[1] for each in sums)
        torch.testing.assert_close(ours, guideline.value, **CLOSE)
        if number == 0:
            expected, found = gradient_of(engine, guideline.value), gradient_of(engine, ours)
            assert float((found - expected).norm()) <= 1e-6 * float(expected.norm())
        seen += whole_step(guideline.seen, wanted, engine.saver.objects.tokenizer.eos_token_id, padded=eos == "all")
    assert Counter(seen) == Counter(wanted)


def whole_step(seen: list[Answer], wanted: list[Answer], eos_id: int, *, padded: bool) -> list[Answer]:
    """The answers of a step; with trained padding, as they were before it, checked to be as long as the longest."""
    if not padded:
        return seen
    shortened = []
    for each in seen:
        content = list(each.answer)
        while content[-1:] == [eos_id]:
            content.pop()
        shortened.append(Answer(each.prompt, (*content, eos_id)))
    assert set(shortened) <= set(wanted)
    longest = max(len(each.prompt) + len(each.answer) for each in shortened)
    assert [len(each.prompt) + len(each.answer) for each in seen] == [longest] * len(seen)
    return shortened


def test_the_reported_loss_is_the_one_of_the_step(bench) -> None:
    """What metrics say, for a step of several micro-batches with trained padding."""
    engine = bench.engine(LAYOUTS["padded, all, accumulated"])
    step_batch = next(iter(engine.data.loader.steps()))
    guideline = Guideline(engine, "guidelines", None)
    with torch.no_grad():
        for batch in step_batch.micro_batches:
            guideline.add(engine.step.forward_process(batch, step=0, num_rows=step_batch.num_rows))
    assert len(guideline.seen) == 6
    assert engine.step(step_batch, 0).sums.loss == pytest.approx(float(guideline.value), rel=1e-6)


def test_packed_documents_carry_the_lengths_of_their_own_answers(bench) -> None:
    engine = bench.engine({"dataset.pack": True, "training.batch_size": 8})
    (packed,) = next(iter(engine.data.loader.steps())).micro_batches
    num_documents = 0
    for row in range(len(packed.row_index)):
        for number in set(packed.document_id[row].tolist()) - {-1}:
            here = packed.document_id[row] == number
            length = int(here.sum() - packed.answer_start[row][here][0])
            assert packed.answer_length[row][here].unique().tolist() == [length]
            assert int(packed.eligible[row][here].sum()) == length
            num_documents += 1
    assert num_documents > (packed.row_index >= 0).sum()
