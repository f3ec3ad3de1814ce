"""The reference view against sums written out."""

import math

import pytest
import torch

from dlm_plugins.testing import ReferenceView


@pytest.fixture
def view() -> ReferenceView:
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ids = torch.tensor([[0, 1, 2], [2, 1, 0]])
    some = torch.tensor([[True, False, True], [False, True, False]])
    rate = torch.tensor([[0.5, 0.5, 0.01], [0.0, 0.25, 0.25]])
    return ReferenceView(
        all_logits=logits.requires_grad_(),
        noisy_ids=ids.masked_fill(some, 3),
        clean_ids=ids,
        mask_id=3,
        corrupted=some,
        eligible=torch.ones_like(some),
        p_mask=rate,
        t=rate,
        rate=rate,
        rate_derivative=torch.ones_like(rate),
        document_id=torch.zeros_like(ids),
        vocabulary_size=4,
        reweight_cap=10.0,
    )


def log_q(view: ReferenceView, row: int, position: int, token: int) -> float:
    logits = view.all_logits[row, position].tolist()
    return float(logits[token]) - math.log(sum(math.exp(logit) for logit in logits))


SCORED = [(0, 0, 0), (0, 2, 2), (1, 1, 1)]


def test_weight_is_the_inverse_rate_capped_and_zero_where_nothing_can_be_corrupted(view: ReferenceView) -> None:
    assert view.weight.tolist() == [[2.0, 2.0, 10.0], [0.0, 4.0, 4.0]]


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_cross_entropy_is_the_weighted_sum_with_smoothing_on_real_ids_only(
    view: ReferenceView, smoothing: float
) -> None:
    expected = 0.0
    for row, position, token in SCORED:
        spread = -sum(log_q(view, row, position, other) for other in (0, 1, 2)) / 3
        hard = -log_q(view, row, position, token)
        expected += view.weight[row, position].item() * ((1 - smoothing) * hard + smoothing * spread)
    total = view.weighted_cross_entropy(view.corrupted, view.weight, smoothing)
    assert total.dtype == torch.float32
    assert total.item() == pytest.approx(expected, rel=1e-6)


def test_log_probabilities_come_row_by_row(view: ReferenceView) -> None:
    expected = [log_q(view, *scored) for scored in SCORED]
    assert view.log_probabilities(view.corrupted).tolist() == pytest.approx(expected, rel=1e-6)


def test_nothing_scored_is_a_connected_zero(view: ReferenceView) -> None:
    total = view.weighted_cross_entropy(torch.zeros_like(view.corrupted), view.weight)
    (gradient,) = torch.autograd.grad(total, view.all_logits)
    assert total.item() == 0
    assert not gradient.any()
