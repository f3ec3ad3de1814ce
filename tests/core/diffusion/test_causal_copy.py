"""The causal copy of the hybrid loss: who sees whom, and next-token losses against transformers' own causal model."""

from typing import Any, ClassVar

import attrs
import pytest
import torch
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from dlm.diffusion.layout import training_layout, with_causal_copy, with_clean_copy
from dlm.diffusion.objective import DiffusionObjective
from dlm.model.attention import Visibility
from dlm_builtin_plugins.losses.guidelines import average
from dlm_builtin_plugins.losses.hybrid import HybridLoss
from dlm_plugins import LossOutput, LossView

BIASES = ("full", "block", "block_causal", "alternating")


@attrs.frozen(kw_only=True)
class NextTokens:
    """The second half of ``hybrid`` alone."""

    needs_causal_copy: ClassVar[bool] = True

    def __call__(self, view: LossView) -> LossOutput:
        weight, normaliser = average(view, view.eligible.float())
        return LossOutput(view.next_token_cross_entropy(view.eligible, weight), normaliser)


def objective_of(lab: Any, model: Any, loss: Any, bias: str = "full", **settings: Any) -> DiffusionObjective:
    made: DiffusionObjective = lab.objective(
        model, loss, bias=lab.component("attention_bias", bias), logit_shift=True, block_length=2, **settings
    )
    made._attention = attrs.evolve(made._attention, has_causal_copy=True)
    return made


def table(lab: Any, batch: Any, bias: str, *, isolate: bool = False) -> list[str]:
    length, layout = batch.input_ids.shape[1], training_layout(batch, 2)
    if bias == "block_causal":
        layout = with_clean_copy(layout)
    visibility = Visibility(
        layout=with_causal_copy(layout, length),
        bias=lab.component("attention_bias", bias),
        isolate_documents=isolate,
        has_padding=batch.has_padding,
        causal_from=layout.position.shape[1],
    )
    dense = visibility.dense()
    assert dense is not None
    return ["".join("x" if seen else "." for seen in row) for row in dense[0].tolist()]


def test_the_copy_is_causal_and_apart(lab, docs) -> None:
    assert table(lab, lab.batch(docs(3)), "full") == ["xxx...", "xxx...", "xxx...", "...x..", "...xx.", "...xxx"]


def test_the_copy_behind_noisy_and_clean_blocks(lab, docs) -> None:
    """Four tokens in blocks of two: the first eight columns are those of block diffusion."""
    assert table(lab, lab.batch(docs(4)), "block_causal") == [
        "xx..........",
        "xx..........",
        "..xxxx......",
        "..xxxx......",
        "....xx......",
        "....xx......",
        "....xxxx....",
        "....xxxx....",
        "........x...",
        "........xx..",
        "........xxx.",
        "........xxxx",
    ]


def test_the_copy_keeps_documents_apart_and_padding_hidden(lab, docs) -> None:
    batch = lab.batch(docs((2, 1), (2, 2)), isolate=True, max_length=5)
    assert table(lab, batch, "block", isolate=True) == [
        "x.........",  # the prompt
        "xx........",
        "..xx......",
        "..xx......",
        "..........",
        ".....x....",
        ".....xx...",
        ".......x..",
        ".......xx.",
        "..........",
    ]


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("bias", BIASES)
def test_what_is_noisy_does_not_notice_the_copy(lab, docs, bias: str, implementation: str) -> None:
    model = lab.model(implementation=implementation)
    noised = lab.noised(lab.batch(docs(9, 4), docs(7)), num_rows=2, block_length=2)
    with torch.no_grad():
        found = objective_of(lab, model, HybridLoss(), bias, implementation=implementation)._states(noised)
        settings = {"bias": lab.component("attention_bias", bias), "block_length": 2, "implementation": implementation}
        alone = lab.hidden(model, noised, logit_shift=True, **settings)
        others = attrs.evolve(noised, noisy_ids=(noised.noisy_ids + 11) % 80 + 8)
        moved = objective_of(lab, model, HybridLoss(), bias, implementation=implementation)._states(others)
    close = {"rtol": 1e-10, "atol": 1e-10} if implementation == "sdpa" else {"rtol": 1e-4, "atol": 1e-5}
    real = noised.clean.document_id >= 0
    torch.testing.assert_close(found.noisy[real], alone[real], **close)
    assert moved.causal is not None
    follows = real & (noised.clean.position_ids > 0)
    assert torch.equal(moved.causal[follows], found.causal[follows])


def parent_of(model: Any) -> Qwen3ForCausalLM:
    """transformers' own causal model with the same weights."""
    config = Qwen3Config(**{**model.config.to_dict(), "is_causal": True, "architectures": None})
    parent = Qwen3ForCausalLM(config).double()
    parent.load_state_dict(model.state_dict())
    return parent.eval()


def causal_loss(parent: Any, ids: Tensor, labels: Tensor, count: float) -> Tensor:
    loss: Tensor = parent(input_ids=ids[None], labels=labels[None], num_items_in_batch=torch.tensor(count)).loss
    return loss


@pytest.mark.parametrize("bias", BIASES)
def test_next_token_losses_are_those_of_the_causal_parent(lab, docs, gradients_of, bias: str) -> None:
    model = lab.model(tie_word_embeddings=False)
    parent = parent_of(model)
    noised = lab.noised(lab.batch(docs(9, 4), docs(7)), num_rows=2)
    total, _ = objective_of(lab, model, NextTokens(), bias)(noised)
    rows, lengths = noised.clean.input_ids, (13, 7)
    expected = sum(causal_loss(parent, ids[:n], ids[:n], 20) for ids, n in zip(rows, lengths, strict=True))
    torch.testing.assert_close(total.double() / 20, expected.double(), rtol=1e-6, atol=0)
    ours, theirs = gradients_of(model, total / 20), gradients_of(parent, expected)
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-6 * float(gradient.abs().max()))


def test_next_token_losses_of_isolated_documents(lab, docs) -> None:
    model = lab.model()
    parent = parent_of(model)
    noised = lab.noised(lab.batch(docs(9, 4), isolate=True))
    total, _ = objective_of(lab, model, NextTokens())(noised)
    ids = noised.clean.input_ids[0]
    expected = causal_loss(parent, ids[:9], ids[:9], 13) + causal_loss(parent, ids[9:], ids[9:], 13)
    torch.testing.assert_close(total.double() / 13, expected.double(), rtol=1e-6, atol=0)


def test_next_token_losses_of_answers_are_their_means(lab, docs) -> None:
    model = lab.model()
    parent = parent_of(model)
    noised = lab.noised(lab.batch(docs((9, 4), (6, 3)), docs((8, 5)), isolate=True), num_rows=2)
    total, _ = objective_of(lab, model, NextTokens(), "block")(noised)
    expected = torch.zeros((), dtype=torch.float64)
    for row, start, length, answer in ((0, 0, 9, 4), (0, 9, 6, 3), (1, 0, 8, 5)):
        ids = noised.clean.input_ids[row, start : start + length]
        labels = ids.masked_fill(torch.arange(length) < length - answer, -100)
        expected = expected + causal_loss(parent, ids, labels, answer).double()
    torch.testing.assert_close(total.double(), expected, rtol=1e-6, atol=0)


def test_hybrid_is_the_sum_and_without_weight_the_diffusion_loss_to_the_bit(lab, docs, gradients_of) -> None:
    model = lab.model()
    noised = lab.noised(lab.batch(docs(9, 4), docs(7)), num_rows=2)
    plain = lab.objective(model, "guidelines", logit_shift=True)(noised)
    zero = lab.objective(model, HybridLoss(ar_weight=0.0), logit_shift=True)(noised)
    assert torch.equal(plain[0], zero[0])
    assert torch.equal(plain[1], zero[1])
    gradients = [gradients_of(model, total) for total in (plain[0], zero[0])]
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])
    half, sums = objective_of(lab, model, HybridLoss(ar_weight=0.5))(noised)
    tokens = objective_of(lab, model, NextTokens())(noised)[0]
    torch.testing.assert_close(half, plain[0] + 0.5 * tokens, rtol=1e-6, atol=0)
    torch.testing.assert_close(sums[len(plain[1]) :], torch.stack((plain[0], tokens)).float(), rtol=1e-6, atol=0)


def test_padding_for_compilation_changes_nothing(lab, docs) -> None:
    model, noised = lab.model(), lab.noised(lab.batch(docs(9, 4), docs(7)), num_rows=2)
    totals = [
        objective_of(lab, model, HybridLoss(), "block_causal", padded_length=each)(noised)[0]
        for each in (lambda n: n, lambda n: n + 7)
    ]
    torch.testing.assert_close(totals[1], totals[0], rtol=1e-6, atol=0)
