"""Losses against formulas in float64 over full logits."""

from collections.abc import Mapping

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dlm_builtin_plugins.attention_biases.block import BlockAttention
from dlm_builtin_plugins.attention_biases.block_causal import BlockCausalAttention
from dlm_builtin_plugins.attention_biases.full import FullAttention
from dlm_builtin_plugins.losses.dllm import DllmLoss
from dlm_builtin_plugins.losses.dpo import DpoLoss
from dlm_builtin_plugins.losses.elbo import ElboLoss
from dlm_builtin_plugins.losses.guidelines import GuidelinesLoss
from dlm_builtin_plugins.losses.soft_ce import SoftCrossEntropyLoss
from dlm_builtin_plugins.maskings.bernoulli import BernoulliMasking
from dlm_builtin_plugins.maskings.contiguous import ContiguousMasking
from dlm_builtin_plugins.noise_types.mask import MaskNoise
from dlm_builtin_plugins.noise_types.random_replace import RandomReplaceNoise
from dlm_builtin_plugins.schedules.cosine import CosineSchedule
from dlm_builtin_plugins.schedules.power import PowerSchedule
from dlm_builtin_plugins.schedules.sigmoid import SigmoidSchedule
from dlm_builtin_plugins.schedules.uniform import UniformSchedule
from dlm_plugins import KeyedDraws, Loss, LossOutput, MaskingRequest, NoiseSchedule, RunComponents
from dlm_plugins.loss import IS_LIKELIHOOD_WEIGHTED

MASK, VOCABULARY = 0, 11
LOSSES: list[Loss] = [GuidelinesLoss(), DllmLoss(), SoftCrossEntropyLoss(), ElboLoss()]


@attrs.frozen(kw_only=True, eq=False)
class View:
    """A loss view over given logits, without any chunking."""

    scores: Tensor  # (B, L, V) float64, a leaf
    noisy_ids: Tensor
    clean_ids: Tensor
    corrupted: Tensor
    eligible: Tensor
    p_mask: Tensor
    weight: Tensor
    t: Tensor
    rate: Tensor
    rate_derivative: Tensor
    answer_length: Tensor | None
    document_id: Tensor
    mask_id: int = MASK
    columns: Mapping[str, Tensor] = attrs.field(factory=dict)

    @property
    def scored(self) -> Tensor:
        return self.corrupted

    @property
    def num_views(self) -> Tensor:
        return torch.ones_like(self.p_mask)

    def weighted_cross_entropy(self, where: Tensor, weight: Tensor, label_smoothing: float = 0.0) -> Tensor:
        assert weight.isfinite().all()  # a fast view may multiply before it selects
        log_probabilities = self.scores.log_softmax(dim=-1)
        hard = -log_probabilities.gather(-1, self.clean_ids[..., None])[..., 0]
        soft = -log_probabilities[..., 1:].mean(dim=-1)  # the mask, id 0, gets no mass
        terms = weight * ((1 - label_smoothing) * hard + label_smoothing * soft)
        return terms[where].sum() + 0.0 * self.scores.sum()

    def log_probabilities(self, where: Tensor) -> Tensor:
        raise AssertionError("the built-in losses are linear in the cross-entropy")

    def logits(self, where: Tensor) -> Tensor:
        raise AssertionError("the built-in losses need no logits")


def make_view(
    *,
    seed: int = 0,
    num_rows: int = 3,
    length: int = 8,
    schedule: NoiseSchedule | None = None,
    t: Tensor | None = None,
    sft: bool = False,
) -> View:
    """Random rows with padding; in fine-tuning two answers a row, of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    schedule = schedule or UniformSchedule()
    document = torch.tensor([0] * 5 + [1] * (length - 7) + [-1] * 2).expand(num_rows, length)
    in_answer = torch.tensor([False, False, True, True, True] + [True] * (length - 7) + [False] * 2)
    eligible = (in_answer if sft else document[0] >= 0).expand(num_rows, length)
    answer_length = torch.tensor([3] * 5 + [length - 7] * (length - 7) + [0] * 2).expand(num_rows, length)
    times = (torch.rand(num_rows, 1, generator=generator) if t is None else t).expand(num_rows, length)
    rate = schedule.mask_rate(times)
    clean = torch.randint(1, VOCABULARY, (num_rows, length), generator=generator)
    corrupted = eligible & (torch.rand(num_rows, length, generator=generator) < rate)
    p_mask = rate.masked_fill(~eligible, 0.0)
    return View(
        scores=torch.randn(num_rows, length, VOCABULARY, generator=generator, dtype=torch.float64, requires_grad=True),
        noisy_ids=clean.masked_fill(corrupted, MASK),
        clean_ids=clean,
        corrupted=corrupted,
        eligible=eligible,
        p_mask=p_mask,
        weight=torch.where(p_mask > 0, 1 / p_mask, 0.0),
        t=times,
        rate=rate,
        rate_derivative=schedule.mask_rate_derivative(times),
        answer_length=answer_length if sft else None,
        document_id=document,
    )


def cross_entropy(view: View) -> Tensor:
    """(B, L) float64."""
    flat = torch.nn.functional.cross_entropy(
        view.scores.detach().flatten(0, 1), view.clean_ids.flatten(), reduction="none"
    )
    return flat.view_as(view.clean_ids)


def average_of(output: LossOutput) -> float:
    return float(output.total.detach()) / float(output.normaliser)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000))
def test_guidelines_pretraining_is_the_published_sum_over_all_tokens(seed):
    view = make_view(seed=seed)
    terms = [
        float(cross_entropy(view)[row, place] / view.rate[row, place])
        for row in range(3)
        for place in range(8)
        if view.corrupted[row, place]
    ]
    assert average_of(GuidelinesLoss()(view)) == pytest.approx(sum(terms) / (3 * 6), rel=1e-6)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000), length=st.integers(8, 12))
def test_guidelines_fine_tuning_is_the_mean_over_answers_of_the_mean_over_their_tokens(seed, length):
    view = make_view(seed=seed, length=length, sft=True)
    per_answer = []
    for row in range(3):
        for document, answer_length in ((0, 3), (1, length - 7)):
            inside = (view.document_id[row] == document) & view.corrupted[row]
            per_answer.append(float((cross_entropy(view) / view.rate)[row][inside].sum()) / answer_length)
    output = GuidelinesLoss()(view)
    assert float(output.normaliser) == pytest.approx(6)
    assert average_of(output) == pytest.approx(sum(per_answer) / 6, rel=1e-6)


def test_guidelines_uses_the_weight_it_is_given():
    view = make_view()
    capped = attrs.evolve(view, weight=view.weight.clamp(max=1.5))
    expected = (cross_entropy(view) * capped.weight)[view.corrupted].sum() / view.eligible.sum()
    assert average_of(GuidelinesLoss()(capped)) == pytest.approx(float(expected), rel=1e-6)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000), sft=st.booleans())
def test_dllm_equals_guidelines_on_text_without_masks(seed, sft):
    view = make_view(seed=seed, sft=sft)
    assert average_of(DllmLoss()(view)) == average_of(GuidelinesLoss()(view))


def test_dllm_counts_masks_that_stood_there_before_if_eligible():
    view = make_view(sft=True)
    clean = view.clean_ids.clone()
    clean[0, 0] = MASK  # in the prompt: not eligible
    place = int((~view.corrupted[1, 2:6]).nonzero()[0]) + 2
    clean[1, place] = MASK  # in an answer, and the noise did not fall on it
    noisy = clean.masked_fill(view.corrupted, MASK)
    view = attrs.evolve(view, clean_ids=clean, noisy_ids=noisy)
    extra = cross_entropy(view)[1, place] * view.weight[1, place] / view.answer_length[1, place]
    difference = float((DllmLoss()(view).total - GuidelinesLoss()(view).total).detach())
    assert difference == pytest.approx(float(extra), rel=1e-6)


def test_dllm_leaves_masks_alone_where_no_label_is():
    view = make_view()
    noisy = view.noisy_ids.clone()
    noisy[:, -2:] = MASK  # the padding
    elsewhere = attrs.evolve(view, noisy_ids=noisy, weight=view.weight.clamp(min=1))
    assert torch.equal(DllmLoss()(elsewhere).total, DllmLoss()(attrs.evolve(elsewhere, noisy_ids=view.noisy_ids)).total)


@pytest.mark.parametrize("sft", [False, True])
@pytest.mark.parametrize("smoothing", [0.1, 0.5])
def test_soft_ce_divides_the_whole_smoothed_term_by_p(sft, smoothing):
    view = make_view(sft=sft)
    target = torch.full((3, 8, VOCABULARY), smoothing / (VOCABULARY - 1), dtype=torch.float64)
    target[..., MASK] = 0
    target.scatter_add_(-1, view.clean_ids[..., None], torch.full((3, 8, 1), 1 - smoothing, dtype=torch.float64))
    terms = -(target * view.scores.detach().log_softmax(-1)).sum(-1) / view.rate
    if sft:
        terms = terms / view.answer_length.clamp(min=1)
    expected = terms[view.corrupted].sum() / (6 if sft else 18)
    assert average_of(SoftCrossEntropyLoss(label_smoothing=smoothing)(view)) == pytest.approx(float(expected), rel=1e-6)


def test_soft_ce_smooths_by_default_and_is_guidelines_at_zero():
    view = make_view()
    assert SoftCrossEntropyLoss() == SoftCrossEntropyLoss(label_smoothing=0.1)
    assert not IS_LIKELIHOOD_WEIGHTED.of(SoftCrossEntropyLoss())
    plain = SoftCrossEntropyLoss(label_smoothing=0)
    assert IS_LIKELIHOOD_WEIGHTED.of(plain)
    assert torch.equal(plain(view).total, GuidelinesLoss()(view).total)
    with pytest.raises(ValueError, match="'label_smoothing' must be < 1"):
        SoftCrossEntropyLoss(label_smoothing=1)


FULL_SCHEDULES = [
    UniformSchedule(eps=0),
    CosineSchedule(),
    PowerSchedule(),
    PowerSchedule(exponent=0.5),
    SigmoidSchedule(),
]


@pytest.mark.parametrize("schedule", FULL_SCHEDULES, ids=repr)
def test_elbo_weight_is_the_derivative_over_the_rate(schedule):
    view = make_view(schedule=schedule, t=torch.tensor([[0.2], [0.5], [0.9]]))
    weight = view.rate_derivative.double() / view.rate.double()
    expected = (cross_entropy(view) * weight)[view.corrupted].sum() / view.eligible.sum()
    assert average_of(ElboLoss()(view)) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("schedule", FULL_SCHEDULES, ids=repr)
def test_elbo_has_the_same_expectation_for_every_schedule(schedule):
    """A model whose cross-entropy at a masked position is the share of masks in the row (which grows with p).

    With uniform p the bound is the integral of E[share | masked] over p: each of the n - 1 others is masked with
    probability p, so that it is 1/n + (n-1)/n * 1/2.
    """
    num_rows, length = 200_000, 6
    times = ((torch.arange(num_rows) + 0.5) / num_rows)[:, None].expand(num_rows, length)
    rate = schedule.mask_rate(times)
    draws = KeyedDraws(seed=0, step=0, rows=torch.arange(num_rows), length=length)
    every = torch.ones(num_rows, length, dtype=torch.bool)
    zeros = torch.zeros(num_rows, length, dtype=torch.int64)
    asked = MaskingRequest(
        eligible=every, p=rate, spans=zeros, document_id=zeros, block_length=1, view_index=zeros[:, 0], draws=draws
    )
    corrupted = BernoulliMasking().select(asked).corrupted
    share = corrupted.double().mean(dim=1, keepdim=True)

    @attrs.frozen(kw_only=True, eq=False)
    class ShareView(View):
        def weighted_cross_entropy(self, where: Tensor, weight: Tensor, label_smoothing: float = 0.0) -> Tensor:
            rows.append((weight * share * where).sum(dim=1).double())
            return rows[-1].sum()

    rows: list[Tensor] = []
    view = ShareView(
        scores=torch.zeros(()),
        noisy_ids=zeros,
        clean_ids=zeros,
        corrupted=corrupted,
        eligible=every,
        p_mask=rate,
        weight=1 / rate,
        t=times,
        rate=rate,
        rate_derivative=schedule.mask_rate_derivative(times),
        answer_length=None,
        document_id=zeros,
    )
    found = average_of(ElboLoss()(view))
    standard_error = float(rows[0].std()) / length / num_rows**0.5
    assert abs(found - (1 / length + (length - 1) / length / 2)) < 5 * standard_error


@pytest.mark.parametrize("schedule", FULL_SCHEDULES, ids=repr)
@pytest.mark.parametrize("end", [0.0, 1.0])
def test_elbo_is_finite_at_both_ends_of_time(schedule, end):
    view = make_view(schedule=schedule, t=torch.full((3, 1), end))
    output = ElboLoss()(view)
    output.total.backward()
    assert output.total.isfinite()
    assert view.scores.grad.isfinite().all()


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
@pytest.mark.parametrize("sft", [False, True])
def test_nothing_scored_is_a_zero_with_a_gradient(loss, sft):
    view = make_view(sft=sft)
    nothing = torch.zeros_like(view.corrupted)
    view = attrs.evolve(view, corrupted=nothing, noisy_ids=view.clean_ids)
    output = loss(view)
    output.total.backward()
    assert float(output.total.detach()) == 0
    assert float(output.normaliser) == pytest.approx(6 if sft else 18)
    assert (view.scores.grad == 0).all()


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
@pytest.mark.parametrize("sft", [False, True])
def test_rows_of_padding_count_nothing(loss, sft):
    view = make_view(sft=sft)
    nothing = torch.zeros_like(view.corrupted)
    empty = attrs.evolve(
        view,
        corrupted=nothing,
        eligible=nothing,
        noisy_ids=view.clean_ids,
        p_mask=torch.zeros_like(view.p_mask),
        weight=torch.zeros_like(view.weight),
        rate=torch.zeros_like(view.rate),
        rate_derivative=torch.zeros_like(view.rate),
        answer_length=torch.zeros_like(view.clean_ids) if sft else None,
    )
    output = loss(empty)
    assert (float(output.total.detach()), float(output.normaliser)) == (0, 0)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
@pytest.mark.parametrize("sft", [False, True])
def test_splitting_a_batch_changes_neither_total_nor_count(loss, sft):
    view = make_view(sft=sft)

    def part(rows: slice) -> LossOutput:
        sliced = {
            field.name: value[rows]
            for field in attrs.fields(View)
            if isinstance(value := getattr(view, field.name), Tensor)
        }
        return loss(attrs.evolve(view, **sliced))

    whole, parts = loss(view), [part(slice(0, 1)), part(slice(1, 3))]
    assert float(sum(each.total.detach() for each in parts)) == pytest.approx(float(whole.total.detach()), rel=1e-6)
    assert float(sum(each.normaliser for each in parts)) == pytest.approx(float(whole.normaliser), rel=1e-6)


def run(**changes: object) -> RunComponents:
    """A run in which every built-in loss can work."""
    kinds = ("loss", "noise_schedule", "masking", "noise_type", "attention_bias")
    good: dict[str, object] = {
        "mode": "pretrain",
        "loss": ElboLoss(),
        "noise_schedule": UniformSchedule(eps=0),
        "masking": BernoulliMasking(),
        "noise_type": MaskNoise(),
        "attention_bias": FullAttention(),
        "names": {kind: f"acme:my_{kind}" for kind in kinds},
        "min_masking_rate": 0.001,
        "reweight_cap": None,
        "mask_contiguous_region_prob": 0.0,
    }
    return RunComponents(**{**good, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"noise_schedule": UniformSchedule()}, ["acme:my_noise_schedule", "{name: uniform, eps: 0}"]),
        ({"masking": ContiguousMasking()}, ["acme:my_masking", "bernoulli"]),
        ({"noise_type": RandomReplaceNoise()}, ["acme:my_noise_type", "mask"]),
        ({"reweight_cap": 5.0}, ["reweight_cap"]),
        ({"mask_contiguous_region_prob": 0.1}, ["mask_contiguous_region_prob"]),
        ({"t_per": "token"}, ["t_per token", "acme:my_attention_bias"]),
        ({"t_per": "block"}, ["t_per block", "acme:my_attention_bias"]),
        ({"t_per": "token", "attention_bias": BlockAttention()}, ["t_per token"]),
    ],
)
def test_elbo_refuses_what_is_no_bound(changes, words):
    (message,) = ElboLoss().incompatibilities(run(**changes))
    for word in words:
        assert word in message


@pytest.mark.parametrize("bias", [BlockAttention(), BlockCausalAttention()], ids=repr)
def test_elbo_accepts_a_time_for_each_block_that_sees_no_other_noisy_block(bias):
    assert list(ElboLoss().incompatibilities(run(t_per="block", attention_bias=bias))) == []


@pytest.mark.parametrize("loss", [ElboLoss(), DllmLoss()], ids=repr)
@pytest.mark.parametrize("schedule", FULL_SCHEDULES, ids=repr)
def test_good_runs_are_accepted(loss, schedule):
    assert list(loss.incompatibilities(run(noise_schedule=schedule))) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"noise_schedule": UniformSchedule(low=0.1)}, ["acme:my_noise_schedule", "0.1009 to 1"]),
        ({"noise_schedule": UniformSchedule(high=0.9)}, ["acme:my_noise_schedule", "0.0009 to 0.9"]),
        ({"masking": ContiguousMasking()}, ["bernoulli"]),
        ({"mask_contiguous_region_prob": 0.1}, ["bernoulli alone"]),
        ({"noise_type": RandomReplaceNoise()}, ["acme:my_noise_type"]),
        ({"reweight_cap": 5.0}, ["reweight_cap"]),
        ({"t_per": "token"}, ["t_per token", "acme:my_attention_bias"]),
        ({"t_per": "block"}, ["t_per block", "acme:my_attention_bias"]),
    ],
)
def test_dpo_refuses_what_is_no_elbo(changes, words):
    assert not list(DpoLoss().incompatibilities(run(noise_schedule=UniformSchedule())))
    (message,) = DpoLoss().incompatibilities(run(**changes))
    for word in words:
        assert word in message


def test_dllm_refuses_noise_without_masks_by_name():
    (message,) = DllmLoss().incompatibilities(run(noise_type=RandomReplaceNoise()))
    assert "acme:my_noise_type" in message
