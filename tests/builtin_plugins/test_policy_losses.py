"""Losses that learn from rewards, against formulas written out on full logits."""

import math
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

from dlm_builtin_plugins.losses.policy_clip import PolicyClipLoss
from dlm_builtin_plugins.losses.policy_weighted import PolicyWeightedLoss
from dlm_plugins import Loss, RunComponents
from dlm_plugins.testing.reference_view import ReferenceView

VIEWS, ANSWERS, LENGTH = 2, 2, 4


@pytest.fixture
def view() -> ReferenceView:
    """Two answers of three tokens behind a prompt of one, two views each, at weight 1/p of 3/2."""
    generator = torch.Generator().manual_seed(0)
    eligible = torch.tensor([[False, True, True, True]]).expand(4, 4).clone()
    scored = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 0]]).bool()
    zeros = torch.zeros(4, 4)
    return ReferenceView(
        all_logits=torch.randn(4, 4, 6, generator=generator, dtype=torch.float64).requires_grad_(),
        noisy_ids=torch.full((4, 4), 5),
        clean_ids=torch.randint(5, (4, 4), generator=generator),
        mask_id=5,
        corrupted=scored,
        eligible=eligible,
        p_mask=torch.where(eligible, 2 / 3, 0.0),
        t=zeros,
        rate=zeros,
        rate_derivative=zeros,
        document_id=torch.zeros(4, 4, dtype=torch.long),
        num_views=torch.full((4, 4), 2.0),
        row_index=torch.tensor([3, 3, 7, 7]),
        advantage=torch.tensor([2.0, 2.0, -1.0, -1.0])[:, None].expand(4, 4),
        group_advantage=torch.tensor([[2.0, -1.0]]).expand(4, 2),
        old_log_probability=-1 - torch.rand(4, 4, generator=generator) * 3,
        reference_log_probability=-torch.rand(4, 4, generator=generator) * 3,
    )


def log_p(view: ReferenceView) -> Tensor:
    return view.all_logits.log_softmax(-1).gather(2, view.clean_ids[..., None])[..., 0]


def gradient(total: Tensor, view: ReferenceView) -> Tensor:
    return torch.autograd.grad(total, view.all_logits, retain_graph=True)[0]


def check(loss: Loss, view: ReferenceView, expected: Tensor, normaliser: float) -> None:
    output = loss(view)
    assert output.total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert output.normaliser.item() == pytest.approx(normaliser)
    torch.testing.assert_close(gradient(output.total, view), gradient(expected, view), rtol=1e-5, atol=1e-7)


def weights(view: ReferenceView) -> Tensor:
    return view.scored * 1.5 / 2


@pytest.mark.parametrize(("per", "normaliser"), [("token", 6.0), ("answer", 2.0), ("constant", 2.0)])
def test_without_an_older_model_it_is_the_policy_gradient(view: Any, per: Any, normaliser: float) -> None:
    view = attrs.evolve(view, old_log_probability=None)
    output = PolicyClipLoss(per=per)(view)
    share = weights(view) / (3 if per == "answer" else 1)
    wanted = -(share * view.advantage * log_p(view)).sum()

    torch.testing.assert_close(gradient(output.total, view), gradient(wanted, view), rtol=1e-5, atol=1e-7)
    assert output.normaliser.item() == pytest.approx(normaliser)
    assert output.total.item() == pytest.approx(-float((share * view.advantage).sum()), rel=1e-6)  # each ratio is 1


def test_the_ratio_of_a_token_is_clipped_where_it_would_gain(view: Any) -> None:
    ratio = (log_p(view) - view.old_log_probability).exp()
    clipped = ratio.clamp(0.9, 1.1)
    expected = -(weights(view) * torch.minimum(ratio * view.advantage, clipped * view.advantage)).sum()

    assert ((ratio < 0.9) & view.scored).any()
    assert ((ratio > 1.1) & view.scored).any()
    check(PolicyClipLoss(low=0.1, high=0.1), view, expected, 2.0)


@pytest.mark.parametrize("per", ["answer", "constant"])
def test_the_ratio_of_an_answer_is_that_of_all_its_views(view: Any, per: Any) -> None:
    log_ratio = (weights(view) * (log_p(view) - view.old_log_probability)).sum(1).view(ANSWERS, VIEWS).sum(1) / 3
    ratio, advantage = log_ratio.exp(), torch.tensor([2.0, -1.0])
    gain = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)

    check(PolicyClipLoss(ratio="answer", per=per), view, -gain.sum() * (1 if per == "answer" else 3), 2.0)


def test_the_divergences(view: Any) -> None:
    view = attrs.evolve(view, advantage=torch.zeros(4, 4))
    gap = view.reference_log_probability - log_p(view)
    for kl, divergence in (("k2", gap**2 / 2), ("k3", gap.exp() - 1 - gap)):
        loss = PolicyClipLoss(kl=kl, beta=0.3)
        assert loss.needs_reference
        check(loss, view, 0.3 * (weights(view) * divergence).sum(), 2.0)
    assert not PolicyClipLoss(kl="k2").needs_reference


@pytest.mark.parametrize("options", [{}, {"kl": "k3", "beta": 0.1}], ids=str)
def test_what_has_become_a_thousand_nats_likelier_or_less_likely_is_no_infinity(view: Any, options: Any) -> None:
    """float32 ends at e to the 89th, and one token of a rollout must not spoil the step."""
    logits = torch.zeros(4, 4, 6).scatter(2, view.clean_ids[..., None], -1000.0).requires_grad_()
    far = attrs.evolve(
        view,
        all_logits=logits,
        old_log_probability=torch.full((4, 4), -2000.0),
        reference_log_probability=torch.zeros(4, 4),
        advantage=-torch.ones(4, 4),
    )
    output = PolicyClipLoss(**options)(far)
    assert output.total.isfinite()
    assert torch.autograd.grad(output.total, logits)[0].isfinite().all()


def test_options_that_would_have_no_effect_are_refused(run_components: RunComponents) -> None:
    good = (PolicyClipLoss(kl="k2", beta=0.1), PolicyClipLoss(floor=0.1), PolicyClipLoss(ratio="answer"))
    assert not [reason for loss in good for reason in loss.incompatibilities(run_components)]
    for loss, word in (
        (PolicyClipLoss(beta=0.1), "beta"),
        (PolicyClipLoss(kl="k3"), "kl"),
        (PolicyClipLoss(ratio="answer", floor=0.1), "floor"),
    ):
        (reason,) = loss.incompatibilities(run_components)
        assert reason.startswith(word)


def test_what_is_improbable_already_is_not_pushed_down_further(view: Any) -> None:
    view = attrs.evolve(view, old_log_probability=None)
    floor = log_p(view).detach()[2:][view.scored[2:]].median().exp().item() * 1.0001
    slopes = [gradient(PolicyClipLoss(floor=value)(view).total, view) for value in (0.0, floor)]

    lost = (log_p(view) < math.log(floor)) & (view.advantage < 0) & view.scored
    assert 0 < int(lost.sum()) < int((view.scored & (view.advantage < 0)).sum())
    assert torch.equal(slopes[1], slopes[0].masked_fill(lost[..., None], 0.0))


def test_weights_are_those_of_the_group(view: Any) -> None:
    up, down = torch.tensor([2.0, -1.0]).div(0.5).softmax(0), torch.tensor([-2.0, 1.0]).div(0.5).softmax(0)
    weight = (up - down).repeat_interleave(VIEWS)[:, None]

    check(PolicyWeightedLoss(temperature=0.5), view, -(weights(view) * weight * log_p(view)).sum(), 2.0)


def test_an_answer_alone_is_as_good_as_its_group_whatever_its_tokens_are_worth(view: Any) -> None:
    """Under a value model the tokens of an answer differ, and the group has the means of answers."""
    advantage = torch.tensor([[0.0, 1.0, -2.0, 4.0], [0.0, 3.0, 0.5, -1.0]]).repeat_interleave(VIEWS, dim=0)
    alone = attrs.evolve(view, advantage=advantage, group_advantage=advantage.sum(dim=1, keepdim=True) / 3)
    slopes = gradient(PolicyWeightedLoss()(alone).total, alone)
    torch.testing.assert_close(slopes, torch.zeros_like(slopes), rtol=0, atol=1e-6)
