"""The chunked head against plain autograd over all logits, in float64."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from dlm.diffusion import cross_entropy
from dlm.diffusion.cross_entropy import (
    CHUNK_ELEMENTS,
    LogProbabilities,
    SamplingLaw,
    Smoothing,
    WeightedCrossEntropy,
    most_logits,
)

N, H, V = 13, 6, 29
EXACT = {"rtol": 1e-10, "atol": 1e-12}


@pytest.fixture(params=[1, V, 3 * V + 5, 100 * V], ids=lambda elements: f"at-most-{elements}-logits")
def chunk_elements(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """From one position a chunk to all of them in one."""
    monkeypatch.setattr(cross_entropy, "CHUNK_ELEMENTS", request.param)
    return int(request.param)


def inputs(dtype: torch.dtype = torch.float64, num: int = N, spread: float = 2.0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {
        "hidden": (spread * torch.randn(num, H, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_(),
        "weight": torch.randn(V, H, generator=generator, dtype=torch.float64).to(dtype).requires_grad_(),
        "bias": torch.randn(V, generator=generator, dtype=torch.float64).to(dtype).requires_grad_(),
        "targets": torch.randint(V, (num,), generator=generator),
        "scale": torch.rand(num, generator=generator, dtype=torch.float64) * 5,
    }


def share() -> Tensor:
    """Smoothing mass on ids 0..24 without the mask, id 3."""
    mass = (torch.arange(V) < 25) & (torch.arange(V) != 3)
    return mass.double() / mass.sum()


def plain_loss(given: dict[str, Tensor], bias: Tensor | None, amount: float) -> Tensor:
    log_probabilities = functional.linear(given["hidden"], given["weight"], bias).log_softmax(dim=1)
    labels = functional.one_hot(given["targets"], V).double() * (1 - amount) + amount * share()
    return -(given["scale"][:, None] * labels * log_probabilities).sum()


def chunked_loss(
    given: dict[str, Tensor], bias: Tensor | None, amount: float, compiles: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    smoothing = Smoothing(amount=amount, share=share()) if amount else None
    result: tuple[Tensor, Tensor, Tensor] = WeightedCrossEntropy.apply(
        given["hidden"], given["weight"], bias, given["targets"], given["scale"], smoothing, compiles
    )
    return result


@pytest.mark.parametrize("amount", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("has_bias", [False, True])
def test_weighted_cross_entropy_equals_plain_autograd(chunk_elements: int, amount: float, has_bias: bool) -> None:
    given = inputs()
    bias = given["bias"] if has_bias else None
    wanted = [given["hidden"], given["weight"], *([given["bias"]] if has_bias else [])]
    total, cross_entropy, correct = chunked_loss(given, bias, amount)
    expected = plain_loss(given, bias, amount)
    torch.testing.assert_close(total, expected, **EXACT)
    # A factor behind the sum must reach the gradient, which is computed before the factor is known.
    ours = torch.autograd.grad(total * 3.7, wanted)
    plain = torch.autograd.grad(expected * 3.7, wanted)
    for mine, theirs in zip(ours, plain, strict=True):
        torch.testing.assert_close(mine, theirs, **EXACT)
    logits = functional.linear(given["hidden"], given["weight"], bias)
    by_position = functional.cross_entropy(logits, given["targets"], reduction="none")
    torch.testing.assert_close(cross_entropy, by_position.detach(), **EXACT)
    assert torch.equal(correct, logits.argmax(dim=1) == given["targets"])


@pytest.mark.parametrize("temperature", [None, 0.5])
@pytest.mark.parametrize("has_bias", [False, True])
def test_log_probabilities_equal_plain_autograd(chunk_elements: int, has_bias: bool, temperature: float | None) -> None:
    given = inputs()
    bias = given["bias"] if has_bias else None
    wanted = [given["hidden"], given["weight"], *([given["bias"]] if has_bias else [])]
    logits, law = functional.linear(given["hidden"], given["weight"], bias), None
    if temperature is not None:  # what a sampler draws from, which writes neither id 3 nor the last four
        excluded = torch.tensor([3, *range(25, V)])
        law = SamplingLaw(temperature=temperature, excluded=excluded)
        given["targets"] = torch.where(torch.isin(given["targets"], excluded), 4, given["targets"])
        logits = (logits / temperature).index_fill(1, excluded, -torch.inf)
    ours, correct = LogProbabilities.apply(given["hidden"], given["weight"], bias, given["targets"], law)
    plain = logits.log_softmax(dim=1).gather(1, given["targets"][:, None])[:, 0]
    torch.testing.assert_close(ours, plain, **EXACT)
    assert torch.equal(correct, logits.argmax(dim=1) == given["targets"])
    # Not linear: the focal loss of each position.
    focal = [-(given["scale"] * (1 - value.exp()) ** 2 * value).sum() for value in (ours, plain)]
    mine, theirs = (torch.autograd.grad(value, wanted) for value in focal)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, **EXACT)


def test_of_tied_ids_the_one_that_argmax_gives_is_right(chunk_elements: int) -> None:
    """Sums over bf16 logits tie often; what counts as right is what a greedy sampler would write."""
    given = inputs(torch.bfloat16, num=V)
    given["hidden"] = given["hidden"].detach().round()
    given["weight"] = given["weight"].detach().round()
    logits = functional.linear(given["hidden"], given["weight"])
    is_top = logits == logits.amax(dim=1, keepdim=True)
    assert (is_top.sum(dim=1) > 1).sum() > 3
    for last in (False, True):  # the first of the likeliest ids, and the last
        given["targets"] = (is_top.float().flip(1) if last else is_top.float()).argmax(dim=1)
        given["targets"] = V - 1 - given["targets"] if last else given["targets"]
        _, _, correct = chunked_loss(given, None, 0.0)
        _, others = LogProbabilities.apply(given["hidden"], given["weight"], None, given["targets"])
        expected = logits.argmax(dim=1) == given["targets"]
        assert expected.all() == (not last)
        assert torch.equal(correct, expected)
        assert torch.equal(others, expected)


def test_smoothing_moves_no_mass_to_the_mask_or_to_padded_rows() -> None:
    given = inputs()
    given["targets"].fill_(0)
    total, _, _ = chunked_loss(given, None, 0.2)
    (grad_weight,) = torch.autograd.grad(total, given["weight"])
    softmax = functional.linear(given["hidden"], given["weight"]).softmax(dim=1).detach()
    # Without mass of their own, these rows get the softmax's push alone.
    push = (given["scale"][:, None] * softmax).T @ given["hidden"].detach()
    without_mass = torch.tensor([3, 25, 26, 27, 28])
    torch.testing.assert_close(grad_weight[without_mass], push[without_mass], **EXACT)
    assert not torch.allclose(grad_weight[4], push[4])


def test_extreme_logits_stay_finite_and_right() -> None:
    given = inputs(torch.float32, spread=3000.0)
    total, cross_entropy, _ = chunked_loss(given, None, 0.0)
    exact = {name: value.double() if value.is_floating_point() else value for name, value in given.items()}
    logits = functional.linear(exact["hidden"], exact["weight"])
    expected = functional.cross_entropy(logits, exact["targets"], reduction="none")
    torch.testing.assert_close(cross_entropy.double(), expected.detach(), rtol=1e-4, atol=1e-2)
    gradients = torch.autograd.grad(total, (given["hidden"], given["weight"]))
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)


@pytest.mark.parametrize(
    ("frozen", "given_names"),
    [("weight", ["hidden"]), ("hidden", ["weight"])],
)
def test_what_is_frozen_gets_no_gradient(frozen: str, given_names: list[str]) -> None:
    given = inputs()
    expected = torch.autograd.grad(plain_loss(given, None, 0.0), [given[name] for name in given_names])
    given[frozen] = given[frozen].detach()
    total, _, _ = chunked_loss(given, None, 0.0)
    torch.testing.assert_close(torch.autograd.grad(total, [given[name] for name in given_names]), expected, **EXACT)
    log_probability, _ = LogProbabilities.apply(given["hidden"], given["weight"], None, given["targets"])
    scored = -(log_probability * given["scale"]).sum()
    torch.testing.assert_close(torch.autograd.grad(scored, [given[name] for name in given_names]), expected, **EXACT)


def test_a_second_backward_pass_is_refused_rather_than_wrong() -> None:
    """The gradients are scaled where they lie."""
    given = inputs()
    total, *_ = chunked_loss(given, None, 0.0)
    torch.autograd.grad(total * 3.7, given["hidden"], retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(total, given["hidden"])


def test_nothing_scored_is_a_zero_that_reaches_every_parameter() -> None:
    given = inputs(num=0)
    total, cross_entropy, _ = chunked_loss(given, given["bias"], 0.1)
    assert total.item() == 0.0
    assert cross_entropy.shape == (0,)
    gradients = torch.autograd.grad(total, (given["hidden"], given["weight"], given["bias"]))
    assert [float(gradient.abs().sum()) for gradient in gradients] == [0.0, 0.0, 0.0]


def test_autocast_multiplies_in_bfloat16_and_scores_in_float32(chunk_elements: int) -> None:
    given = inputs(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, cross_entropy, _ = chunked_loss(given, None, 0.0)
        log_probability, _ = LogProbabilities.apply(given["hidden"], given["weight"], None, given["targets"])
    assert (total.dtype, cross_entropy.dtype, log_probability.dtype) == (torch.float64, torch.float32, torch.float32)
    # Exactly: the products rounded to bfloat16, everything after them in float32.
    logits = (given["hidden"].bfloat16() @ given["weight"].bfloat16().T).float().detach()
    expected = functional.cross_entropy(logits, given["targets"], reduction="none")
    torch.testing.assert_close(cross_entropy, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(log_probability.detach(), -expected, rtol=1e-5, atol=1e-5)
    # A softmax in bfloat16 would be off by more than the tolerance above.
    assert float((functional.cross_entropy(logits.bfloat16(), given["targets"]) - expected.mean()).abs()) > 1e-4
    gradients = torch.autograd.grad(total, (given["hidden"], given["weight"]))
    assert [gradient.dtype for gradient in gradients] == [torch.float32, torch.float32]
    plain = torch.autograd.grad(plain_loss(given, None, 0.0), (given["hidden"], given["weight"]))
    for mine, theirs in zip(gradients, plain, strict=True):
        assert float((mine - theirs).norm() / theirs.norm()) < 0.05


def test_backward_of_log_probabilities_repeats_the_autocast_of_the_forward_pass() -> None:
    given = inputs(torch.float32)
    wanted = (given["hidden"], given["weight"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        log_probability, _ = LogProbabilities.apply(*wanted, None, given["targets"])
        total, _, _ = chunked_loss(given, None, 0.0)
    from_log_probabilities = torch.autograd.grad(-(log_probability * given["scale"]).sum(), wanted)
    for mine, theirs in zip(from_log_probabilities, torch.autograd.grad(total, wanted), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-2, atol=1e-2)


class LargestTensor(TorchDispatchMode):
    """Notes the most elements that an operation has returned."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, Tensor):
                self.elements = max(self.elements, value.numel())
        return result


def test_logits_of_all_positions_never_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    num, vocabulary = 400, 50
    monkeypatch.setattr(cross_entropy, "CHUNK_ELEMENTS", 10 * vocabulary)
    hidden = torch.randn(num, H, requires_grad=True)
    weight = torch.randn(vocabulary, H, requires_grad=True)
    targets, scale = torch.randint(vocabulary, (num,)), torch.rand(num)
    with LargestTensor() as largest:
        total, _, _ = WeightedCrossEntropy.apply(hidden, weight, None, targets, scale, None, False)
        log_probability, _ = LogProbabilities.apply(hidden, weight, None, targets)
        (total + log_probability.sum()).backward()
    assert largest.elements == num * H  # the hidden states; logits of all positions are 8 times as many


def test_a_chunk_takes_a_quarter_of_what_is_free() -> None:
    """12 bytes a logit; never less than what always fits, nor more than serves."""
    gigabyte = 1 << 30
    assert most_logits(None) == most_logits(0) == most_logits(gigabyte) == CHUNK_ELEMENTS
    assert most_logits(12 * gigabyte) == gigabyte // 4
    assert most_logits(70 * gigabyte) == 1 << 29


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("amount", [0.0, 0.1])
def test_what_is_compiled_is_the_same(monkeypatch: pytest.MonkeyPatch, amount: float) -> None:
    """Over chunks of two sizes. Captured and differentiated as ever, but without code for a processor: seconds less."""
    monkeypatch.setattr(cross_entropy, "CHUNK_ELEMENTS", 5 * V)
    compiled = cross_entropy._compiled_judge
    compiled.cache_clear()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager", fullgraph=True))
    given, other = inputs(), inputs()
    loss, cross_entropies, correct = chunked_loss(given, given["bias"], amount, compiles=True)
    loss.backward()
    expected = chunked_loss(other, other["bias"], amount)
    expected[0].backward()
    compiled.cache_clear()
    torch.testing.assert_close((loss, cross_entropies, correct), expected, **EXACT)
    for name in ("hidden", "weight", "bias"):
        torch.testing.assert_close(given[name].grad, other[name].grad, **EXACT)
