"""Preference optimisation against a computation that enumerates all masks, with transformers' own forward passes."""

import math
from contextlib import nullcontext
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

from dlm.data.batch import Batch, Collator
from dlm.diffusion.forward_process import NoisedBatch, _drawn_apart
from dlm.diffusion.preference_objective import PreferenceObjective
from dlm.diffusion.reference import Reference
from dlm.model.body_and_head import split
from dlm_builtin_plugins.losses.dpo import DpoLoss

LENGTH = 3
"""Of the answers."""
PATTERNS = torch.tensor([[number >> bit & 1 for bit in range(LENGTH)] for number in range(1, 2**LENGTH)]).bool()
"""Every mask with something hidden."""


def pairs(lab: Any, docs: Any) -> Batch:
    """Two pairs with prompts of 2 and 4 tokens, and a filler."""
    rows = []
    for number, length in enumerate((2 + LENGTH, 4 + LENGTH)):
        chosen, rejected = (lab.row(*docs((length, LENGTH)), seed=seed) for seed in (number, number + 10))
        rejected.input_ids[: length - LENGTH] = chosen.input_ids[: length - LENGTH]
        rows.append(attrs.evolve(chosen, rejected=rejected))
    collate = Collator(pad_id=0, has_answers=True, has_pairs=True)
    return collate([*rows, None], [0, 1, -1], 7)


def with_every_mask(lab: Any, batch: Batch) -> NoisedBatch:
    """Each row with each mask, weighted so that the mean over the draws is the ELBO: over uniform times k of n hidden
    tokens have the probability (k - 1)! (n - k)! / n! with the weight 1/t included."""
    apart = _drawn_apart(batch, len(PATTERNS))
    pattern = PATTERNS.repeat(len(batch.row_index), 1)
    corrupted = torch.zeros_like(apart.eligible).masked_scatter(apart.eligible, pattern[apart.pair >= 0])
    hidden = pattern.sum(dim=1)
    chance = [math.factorial(k - 1) * math.factorial(LENGTH - k) / math.factorial(LENGTH) for k in hidden.tolist()]
    weight = torch.tensor(chance)[:, None].expand(corrupted.shape) * len(PATTERNS)
    one = torch.ones_like(weight)
    return NoisedBatch(
        clean=apart,
        noisy_ids=torch.where(corrupted, lab.mask_id, apart.input_ids),
        corrupted=corrupted,
        p_mask=one,
        weight=one,
        t=one,
        rate=one,
        rate_derivative=weight,
    )


def elbo(lab: Any, model: Any, ids: Tensor) -> Tensor:
    """Of the answer, which is last: ids (L,)."""
    total = torch.zeros((), dtype=torch.float64)
    for pattern in PATTERNS:
        k = int(pattern.sum())
        chance = math.factorial(k - 1) * math.factorial(LENGTH - k) / math.factorial(LENGTH)
        hidden = torch.nn.functional.pad(pattern, (len(ids) - LENGTH, 0))
        noisy = torch.where(hidden, lab.mask_id, ids)
        log_p = model(input_ids=noisy[None]).logits[0].double().log_softmax(-1)
        total = total + chance * log_p.gather(1, ids[:, None])[hidden].sum()
    return total


def objective_of(lab: Any, model: Any, reference: Any, loss: DpoLoss) -> PreferenceObjective:
    plain, other = lab.objective(model), lab.objective(reference)
    parts = split(model)
    made = PreferenceObjective(
        parts.body,
        parts.head,
        loss=loss,
        vocabulary=lab.vocabulary(),
        attention=plain._attention,
        logit_shift=False,
    )
    made.reference = Reference(objective=other, frozen=nullcontext)
    return made


def test_value_and_gradient_are_those_of_dpo_with_the_expected_elbo(lab, docs, gradients_of) -> None:
    model, reference = lab.model(seed=0), lab.model(seed=1).requires_grad_(False)
    batch, loss = pairs(lab, docs), DpoLoss(beta=0.3, num_draws=len(PATTERNS))
    total, sums = objective_of(lab, model, reference, loss)(with_every_mask(lab, batch))
    margins = []
    for number in range(2):
        sides = [batch.input_ids[row][batch.document_id[row] >= 0] for row in (2 * number, 2 * number + 1)]
        worth = [elbo(lab, model, ids) - elbo(lab, reference, ids) for ids in sides]
        margins.append(0.3 * (worth[0] - worth[1]))
    margin = torch.stack(margins)
    known = margin.detach()
    expected = -torch.nn.functional.logsigmoid(margin).sum()
    torch.testing.assert_close(total.double(), expected, rtol=1e-6, atol=0)
    ours, theirs = gradients_of(model, total), gradients_of(model, expected)
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-6, atol=1e-6 * float(gradient.abs().max()))
    assert sums[1].item() == pytest.approx(2)  # pairs; the filler is none
    accuracy, mean_margin = sums[-2:].tolist()
    assert accuracy == pytest.approx(float((known > 0).sum()))
    assert mean_margin == pytest.approx(float(known.sum()), rel=1e-6)


def test_a_model_that_is_its_own_reference_is_undecided(lab, docs) -> None:
    """Which shows that the draws are shared: without, the margins would be noise."""
    model = lab.model()
    process = lab.process(num_draws=5)
    noised = process(pairs(lab, docs), step=3, num_rows=2)
    total, sums = objective_of(lab, model, lab.model(), DpoLoss(num_draws=5))(noised)
    assert total.item() == pytest.approx(2 * math.log(2), rel=1e-6)
    assert sums[-2:].tolist() == [1, 0]  # two ties


def test_both_answers_share_their_draws_and_each_draw_is_another(lab, docs) -> None:
    noised = lab.process(num_draws=4)(pairs(lab, docs), step=3, num_rows=2)
    rows = noised.clean
    assert rows.row_index.tolist() == [0, 1, 2, 3] * 2 + [4, 5, 6, 7] * 2 + [-1] * 8
    times = noised.t[:, -1].reshape(3, 2, 4)
    assert torch.equal(times[:, 0], times[:, 1])
    assert len(set(times[:2, 0].flatten().tolist())) == 8
    start = [2, 4]
    for number in range(2):
        chosen, rejected = (
            noised.corrupted[8 * number + 4 * side : 8 * number + 4 * side + 4, start[number] : start[number] + LENGTH]
            for side in (0, 1)
        )
        assert torch.equal(chosen, rejected)


def test_the_views_of_a_masking_count_once(lab, docs) -> None:
    masking = lab.component("masking", "complementary")
    noised = lab.process(num_draws=3, masking=masking)(pairs(lab, docs), step=3, num_rows=2)
    _, sums = objective_of(lab, lab.model(), lab.model(seed=1), DpoLoss(num_draws=3))(noised)
    assert sums[1].item() == pytest.approx(2)
