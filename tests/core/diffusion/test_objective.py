"""The objective against the guideline written out: every row or document by itself, full logits, index after the head.

The guideline's text is the pre-training and fine-tuning sections of LLaDA's GUIDELINES (Nie et al. 2025).
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dlm.diffusion.forward_process import NoisedBatch
from dlm.diffusion.times import TIME_UNITS
from dlm_plugins import LossOutput, Selection

CLOSE = {"rtol": 1e-6, "atol": 1e-8}
PRETRAIN = [(17,), (5, 9), (3, 4, 6)]
FINE_TUNING = [((9, 4),), ((8, 3), (6, 5)), ((5, 1), (4, 2), (7, 6))]


def pieces(noised: NoisedBatch) -> Iterator[tuple[int, Tensor]]:
    """Row number and positions of what the model sees as one text: a document where they are isolated, else a row."""
    for row, documents in enumerate(noised.clean.document_id):
        groups = documents if noised.clean.isolate_documents else documents.clamp(max=0)
        for number in groups[groups >= 0].unique():
            yield row, (groups == number).nonzero()[:, 0]


def guideline(model: Any, noised: NoisedBatch, score: Callable[[NoisedBatch, int, Tensor, Tensor], Tensor]) -> Tensor:
    """Sum of ``score(noised, row, positions, logits)`` over all texts, divided by the tokens or answers."""
    batch, total = noised.clean, torch.zeros((), dtype=torch.float64)
    for row, positions in pieces(noised):
        logits = model(input_ids=noised.noisy_ids[row, positions][None]).logits[0]  # (n, V)
        scores = score(noised, row, positions, logits)  # (n,)
        if batch.answer_length is not None:
            scores = scores / batch.answer_length[row, positions].clamp(min=1)
        total = total + scores.sum()
    if batch.answer_length is None:
        return total / batch.eligible.sum()
    answers = {(row, int(d)) for row, ids in enumerate(batch.document_id) for d in ids[batch.eligible[row]]}
    return total / len(answers)


def inverse_rate(noised: NoisedBatch, row: int, positions: Tensor, where: Tensor) -> Tensor:
    """1/p at ``where``, else 0."""
    p = noised.rate[row, positions].double()
    return torch.where(where, 1 / p, torch.zeros_like(p))


def cross_entropy(noised: NoisedBatch, row: int, positions: Tensor, logits: Tensor) -> Tensor:
    return functional.cross_entropy(logits, noised.clean.input_ids[row, positions], reduction="none")


def guidelines_score(noised: NoisedBatch, row: int, positions: Tensor, logits: Tensor) -> Tensor:
    weight = inverse_rate(noised, row, positions, noised.corrupted[row, positions])
    return weight * cross_entropy(noised, row, positions, logits)


def dllm_score(noised: NoisedBatch, row: int, positions: Tensor, logits: Tensor) -> Tensor:
    is_mask = (noised.noisy_ids[row, positions] == 7) & noised.clean.eligible[row, positions]
    return inverse_rate(noised, row, positions, is_mask) * cross_entropy(noised, row, positions, logits)


def soft_ce_score(noised: NoisedBatch, row: int, positions: Tensor, logits: Tensor) -> Tensor:
    labels = functional.one_hot(noised.clean.input_ids[row, positions], 96).double() * 0.9
    real = [number for number in range(90) if number != 7]
    labels[:, real] += 0.1 / len(real)
    smoothed = -(labels * logits.log_softmax(dim=1)).sum(dim=1)
    return inverse_rate(noised, row, positions, noised.corrupted[row, positions]) * smoothed


def elbo_score(noised: NoisedBatch, row: int, positions: Tensor, logits: Tensor) -> Tensor:
    t = noised.t[row, positions].double()
    # Of the cosine schedule sin(pi t / 2), written out.
    slope, p = torch.pi / 2 * torch.cos(torch.pi / 2 * t), torch.sin(torch.pi / 2 * t).clamp(min=0.001)
    weight = torch.where(noised.corrupted[row, positions], slope / p, torch.zeros_like(p))
    return weight * cross_entropy(noised, row, positions, logits)


SCORES = {"guidelines": guidelines_score, "dllm": dllm_score, "soft_ce": soft_ce_score, "elbo": elbo_score}
SCHEDULES = {"elbo": "cosine"}


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("isolate", [False, True], ids=["one-text", "isolated"])
@pytest.mark.parametrize("rows", [PRETRAIN, FINE_TUNING], ids=["pretrain", "sft"])
@pytest.mark.parametrize("loss", list(SCORES))
def test_loss_and_gradient_equal_the_guideline(lab, docs, gradients_of, loss, rows, isolate, tied) -> None:
    model = lab.model(tie_word_embeddings=tied)
    batch = lab.batch(*(docs(*row) for row in rows), isolate=isolate)
    batch.input_ids[0, 2] = lab.mask_id  # a text that holds the mask token already
    schedule = lab.component("noise_schedule", SCHEDULES.get(loss, "uniform"))
    noised = lab.noised(batch, schedule=schedule, time_unit=TIME_UNITS["block"])
    assert 0 < noised.corrupted.sum() < batch.eligible.sum()

    total, sums = lab.objective(model, loss)(noised)
    ours = total / sums[1]
    expected = guideline(model, noised, SCORES[loss])
    torch.testing.assert_close(ours, expected, **CLOSE)
    our_gradients, gradients = gradients_of(model, ours), gradients_of(model, expected)
    assert our_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert float((our_gradients[name] - gradient).norm()) <= 1e-6 * float(gradient.norm()), name


def test_statistics_count_what_was_noised(lab, docs) -> None:
    model = lab.model()
    noised = lab.noised(lab.batch(docs(17), docs(5, 9), docs(3), None), num_rows=3)
    _, sums = lab.objective(model)(noised)
    scalars, bins = sums[:5], sums[5:].view(3, 10)
    assert scalars[1:].tolist() == [34, 34, 34, 3]
    logits = model(input_ids=noised.noisy_ids, attention_mask=(noised.clean.document_id >= 0).long()).logits
    for number in range(10):
        in_bin = noised.corrupted & (noised.rate >= number / 10) & (noised.rate < (number + 1) / 10)
        right = (logits.argmax(dim=-1) == noised.clean.input_ids)[in_bin]
        unweighted = functional.cross_entropy(logits[in_bin], noised.clean.input_ids[in_bin], reduction="sum")
        assert bins[:2, number].tolist() == [int(in_bin.sum()), int(right.sum())]
        torch.testing.assert_close(bins[2, number].double(), unweighted.double().detach(), rtol=1e-5, atol=1e-5)
    assert int(bins[0].sum()) == int(noised.corrupted.sum())


def test_metrics_are_known_where_a_loss_scores_elsewhere(lab, docs) -> None:
    """``dllm`` also scores a mask token of the text itself; the metrics look at corrupted positions alone."""
    model = lab.model()
    batch = lab.batch(docs(17), docs(14))
    batch.input_ids[:, 3] = lab.mask_id
    noised = lab.noised(batch)
    by_loss = [lab.objective(model, loss)(noised)[1][5:] for loss in (*SCORES, EverySecond(), Thirds())]
    for other in by_loss[1:]:
        torch.testing.assert_close(other, by_loss[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("loss", list(SCORES))
def test_a_batch_of_fillers_is_a_zero_that_reaches_every_parameter(lab, loss) -> None:
    model = lab.model()
    total, sums = lab.objective(model, loss)(lab.noised(lab.batch(None, None), num_rows=8))
    assert total.item() == 0.0
    assert sums.tolist() == [0.0] * len(sums)
    total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().max()) == 0.0, name


@pytest.mark.parametrize("loss", list(SCORES))
def test_a_frozen_head_trains_the_body_as_before(lab, docs, gradients_of, loss) -> None:
    model = lab.model(tie_word_embeddings=False)
    noised = lab.noised(lab.batch(docs(17), docs(9)))
    free = gradients_of(model, lab.objective(model, loss)(noised)[0])
    model.lm_head.weight.requires_grad_(False)
    frozen = gradients_of(model, lab.objective(model, loss)(noised)[0])
    assert free.keys() - frozen.keys() == {"lm_head.weight"}
    for name, gradient in frozen.items():
        assert torch.equal(gradient, free[name]), name


def test_bfloat16_models_score_in_float32(lab, docs) -> None:
    model = lab.model(torch.bfloat16)
    total, _ = lab.objective(model)(lab.noised(lab.batch(docs(17), docs(9))))
    assert total.dtype == torch.float32
    total.backward()
    assert all(parameter.grad.dtype == torch.bfloat16 for parameter in model.parameters())


def test_autocast_comes_close_to_float32(lab, docs) -> None:
    model = lab.model(torch.float32)
    noised = lab.noised(lab.batch(docs(17), docs(9)))
    exact = lab.objective(model)(noised)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = lab.objective(model)(noised)[0]
    assert rounded.dtype == torch.float32
    assert 0 < abs(float(rounded.detach() / exact.detach()) - 1) < 0.02


def test_two_views_share_the_weight_of_their_row(lab, docs) -> None:
    """A masking with two views: the core repeats rows, the loss is the mean over both."""
    model = lab.model()
    noised = lab.noised(lab.batch(docs(17), docs(9)), masking=Complementary())
    first, second = noised.corrupted[::2], noised.corrupted[1::2]
    assert not (first & second).any()
    assert torch.equal(first | second, noised.clean.eligible[::2])
    assert torch.equal(noised.t[::2], noised.t[1::2])
    total, sums = lab.objective(model)(noised)
    assert sums[1:5].tolist() == [26, 52, 52, 4]  # a row counts once, however many views it has
    torch.testing.assert_close(total / sums[1], guideline(model, noised, guidelines_score), **CLOSE)


class Complementary:
    """Half of the positions in one view, the others in the second."""

    num_views = 2

    def select(self, request: Any) -> Any:
        coin = request.draws.per_position("coin") < 0.5
        chosen = coin ^ (request.view_index == 1)[:, None]
        return Selection(corrupted=chosen & request.eligible, p_mask=torch.where(request.eligible, request.p, 0.0))


class EverySecond:
    """Scores every second position of the corrupted ones."""

    def __call__(self, view: Any) -> LossOutput:
        where = view.corrupted & (torch.arange(view.corrupted.shape[1]) % 2 == 0)
        return LossOutput(view.weighted_cross_entropy(where, view.weight), view.eligible.sum())


class Thirds:
    """Is not linear in the cross-entropy, and looks at every third position."""

    def __call__(self, view: Any) -> LossOutput:
        where = view.corrupted & (torch.arange(view.corrupted.shape[1]) % 3 == 0)
        return LossOutput(-view.log_probabilities(where).exp().sum(), view.eligible.sum())
