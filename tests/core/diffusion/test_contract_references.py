"""The core against the plain references that the contract kit shows to plugin authors: they must mean the same."""

import pytest
import torch
from torch import Tensor

from dlm.diffusion.layout import training_layout, with_clean_copy
from dlm.diffusion.view import BatchView
from dlm.model.attention import Visibility
from dlm_plugins.testing.reference_view import ReferenceView
from dlm_plugins.testing.toy_attention import isolated, visible


def both_views(lab, noised, cap: float | None = None) -> tuple[BatchView, ReferenceView, Tensor, Tensor]:
    """The two views of one batch, each with hidden states of its own to ask for a gradient."""
    generator = torch.Generator().manual_seed(1)
    head = torch.nn.Linear(16, 96, bias=False, dtype=torch.float64)
    values = torch.randn(*noised.noisy_ids.shape, 16, generator=generator, dtype=torch.float64)
    ours, theirs = values.clone().requires_grad_(), values.clone().requires_grad_()
    reference = ReferenceView(
        all_logits=theirs @ head.weight.T,
        noisy_ids=noised.noisy_ids,
        clean_ids=noised.clean.input_ids,
        mask_id=lab.mask_id,
        corrupted=noised.corrupted,
        eligible=noised.clean.eligible,
        p_mask=noised.p_mask,
        t=noised.t,
        rate=noised.rate,
        rate_derivative=noised.rate_derivative,
        document_id=noised.clean.document_id,
        answer_length=noised.clean.answer_length,
        vocabulary_size=lab.num_ids,
        reweight_cap=cap,
    )
    return BatchView(noised, ours, head, lab.vocabulary()), reference, ours, theirs


@pytest.mark.parametrize("name", ["guidelines", "dllm", "soft_ce", "elbo"])
@pytest.mark.parametrize("cap", [None, 3.0])
@pytest.mark.parametrize("answers", [False, True], ids=["tokens", "answers"])
def test_a_loss_says_the_same_of_both_views(lab, docs, name: str, cap: float | None, answers: bool) -> None:
    rows = [docs((9, 4), (6, 2)), docs((5, 5)), None] if answers else [docs(9, 6), docs(5), None]
    noised = lab.noised(lab.batch(*rows), num_rows=2, reweight_cap=cap)
    ours, theirs, hidden, other_hidden = both_views(lab, noised, cap)
    loss = lab.component("loss", name)

    said, expected = loss(ours), loss(theirs)

    torch.testing.assert_close(ours.weight, theirs.weight)
    torch.testing.assert_close(said.total.double(), expected.total.double(), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(said.normaliser, expected.normaliser)
    said.total.backward()
    expected.total.backward()
    torch.testing.assert_close(hidden.grad, other_hidden.grad, rtol=1e-6, atol=1e-9)


def test_log_probabilities_and_logits_say_the_same(lab, docs) -> None:
    noised = lab.noised(lab.batch(docs(9, 6), docs(5)))
    ours, theirs, hidden, other_hidden = both_views(lab, noised)
    where = noised.clean.eligible & (noised.clean.position % 2 == 0)

    torch.testing.assert_close(ours.logits(where), theirs.logits(where))
    said, expected = ours.log_probabilities(where), theirs.log_probabilities(where)
    torch.testing.assert_close(said.double(), expected.double(), rtol=1e-6, atol=1e-6)
    said.exp().sum().backward()
    expected.exp().sum().backward()
    torch.testing.assert_close(hidden.grad, other_hidden.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("autocast", [True, False])
def test_what_a_loss_is_given_is_never_in_half_precision(lab, docs, autocast: bool) -> None:
    """Sums over thousands of positions would be rounded: under autocast, and where FSDP holds the head in bf16."""
    noised = lab.noised(lab.batch(docs(9, 6), docs(5)))
    head = torch.nn.Linear(16, 96, bias=False)
    hidden = torch.randn(*noised.noisy_ids.shape, 16)
    if not autocast:
        head, hidden = head.bfloat16(), hidden.bfloat16()
    view, where = BatchView(noised, hidden, head, lab.vocabulary()), noised.clean.eligible
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        given = (view.logits(where), view.log_probabilities(where), view.weighted_cross_entropy(where, view.weight))
    assert [tensor.dtype for tensor in given] == [torch.float32] * 3
    assert torch.equal(given[0], given[0].bfloat16().float())  # the products themselves are in half precision
    torch.testing.assert_close(
        given[1], given[0].log_softmax(dim=1).gather(1, noised.clean.input_ids[where][:, None])[:, 0]
    )


@pytest.mark.parametrize("name", ["full", "block", "block_causal"])
@pytest.mark.parametrize("doubled", [False, True], ids=["one copy", "clean copy"])
def test_visibility_is_what_the_kit_tries_claims_on(lab, docs, name: str, doubled: bool) -> None:
    batch = lab.batch(docs((9, 5), (6, 3)), docs((5, 4)), isolate=True)
    layout = training_layout(batch, block_length=2)
    layout = with_clean_copy(layout) if doubled else layout
    bias = lab.component("attention_bias", name)

    seen = Visibility(layout=layout, bias=bias, isolate_documents=True, has_padding=True).dense()

    allowed = visible(bias, layout)
    expected = isolated(layout)[:, 0] if allowed is None else (allowed & isolated(layout))[:, 0]
    real = layout.document >= 0
    assert seen is not None
    torch.testing.assert_close(seen[real], expected[real])
