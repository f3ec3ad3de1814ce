"""Drawn masks: their law, unbiasedness by enumeration, coverage of the intervals, and what a score depends on."""

from itertools import combinations
from math import comb
from typing import Any

import attrs
import numpy as np
import pytest
import torch

import dlm
from dlm.errors import UserInputError
from dlm.evaluation import mask_designs
from dlm.evaluation.estimates import draw_values, estimate
from dlm.evaluation.intervals import half_width, mean_figure, t_quantile, wilson
from dlm.evaluation.likelihood import ScoredText, design_of
from dlm.evaluation.mask_designs import DrawNumbers, Part, PartRequest, drawn_subsets, places_of
from dlm.evaluation.scoring import Scorer

STRATA = {"uniform": 4, "sqrt": 8}


def request(length: int, strata: int, key: int = 0, seed: int = 0) -> PartRequest:
    return PartRequest(
        length=length, key=key, number=0, seed=seed, draws=DrawNumbers(first=0, stop=2 * strata, strata=strata)
    )


def chi_square_p(observed: np.ndarray, expected: np.ndarray) -> float:
    statistic = torch.tensor(float(((observed - expected) ** 2 / expected).sum()))
    return 1 - float(torch.special.gammainc(torch.tensor((len(observed) - 1) / 2), statistic / 2))


@pytest.mark.parametrize("draws", [6, 64])
def test_counts_follow_their_density_whatever_length_and_number_of_draws(draws: int) -> None:
    p_values = []
    for length in range(2, 65):
        made = request(length, draws // 2)
        density = mask_designs._density(made)
        assert (np.ptp(density) == 0) == (draws < 16)
        parts = [drawn_subsets(attrs.evolve(made, key=key)) for key in range(1 + 8 * length // draws)]
        sizes = np.concatenate([part.masked.sum(axis=1) for part in parts])
        observed = np.bincount(sizes, minlength=length + 1)[1:]
        p_values.append(chi_square_p(observed, density * len(sizes)))
    # Strata make counts more even than independent ones: the test cannot fail from luck more often than it says.
    assert min(p_values) > 1e-3 / len(p_values)


def test_a_subset_of_a_given_size_is_uniform() -> None:
    parts = [drawn_subsets(request(5, 4, key=key)) for key in range(200)]
    masked = np.concatenate([part.masked for part in parts])
    pairs = masked[masked.sum(axis=1) == 2] @ (1 << np.arange(5))
    observed = np.array([(pairs == (1 << i) + (1 << j)).sum() for i, j in combinations(range(5), 2)])
    assert chi_square_p(observed, np.full(10, len(pairs) / 10)) > 1e-3


@pytest.mark.parametrize("density", STRATA)
def test_the_estimate_is_unbiased_by_enumeration(density: str) -> None:
    """Each draw in turn takes all values it can have while the others stay: its mean must not depend on them."""
    length, strata = 4, STRATA[density]
    part = drawn_subsets(request(length, strata))
    table = table_of(length, seed=1)
    probability = mask_designs._density(request(length, strata))
    edges = np.concatenate([[0], probability.cumsum()])
    total = 0.0
    for draw, stratum in enumerate(request(length, strata).draws.stratum):
        low, high = stratum / strata, (stratum + 1) / strata
        for k in range(1, length + 1):
            share = max(0.0, min(edges[k], high) - max(edges[k - 1], low)) * strata
            for subset in combinations(range(length), k):
                masked = part.masked.copy()
                masked[draw] = np.isin(np.arange(length), subset)
                weight = part.weight.copy()
                weight[draw] = masked[draw] / (k * probability[k - 1])
                changed = Part(masked=masked, weight=weight, stratum_weight=part.stratum_weight)
                values = draw_values(changed, losses_of(table, masked))
                total += share / comb(length, k) * values[draw] / (2 * strata)
    assert total == pytest.approx(bound_of(table), abs=1e-12)


def table_of(length: int, seed: int) -> dict[tuple[bool, ...], np.ndarray]:
    """Losses of each token under each mask, higher where more is hidden."""
    random = np.random.default_rng(seed)
    base = random.gamma(2.0, 1.0, length)
    masks = [tuple(bool(mask >> i & 1) for i in range(length)) for mask in range(1, 2**length)]
    return {mask: base * (0.4 + 0.6 * sum(mask) / length) + random.gamma(0.5, 0.4, length) for mask in masks}


def losses_of(table: dict[tuple[bool, ...], np.ndarray], masked: np.ndarray) -> np.ndarray:
    return np.stack([table[tuple(row.tolist())] for row in masked])


def bound_of(table: dict[tuple[bool, ...], np.ndarray]) -> float:
    length = len(next(iter(table)))
    return sum(float(losses[list(mask)].sum()) / sum(mask) / comb(length, sum(mask)) for mask, losses in table.items())


@pytest.mark.parametrize("draws", [8, 32])
def test_the_interval_covers_the_truth_as_often_as_it_says(draws: int) -> None:
    length, texts = 8, 1
    tables = [table_of(length, seed) for seed in range(texts)]
    truth = sum(bound_of(table) for table in tables)
    covered = 0
    errors = []
    for seed in range(1000):
        value, variance = 0.0, 0.0
        for key, table in enumerate(tables):
            part = drawn_subsets(request(length, draws // 2, key=key, seed=seed))
            found = estimate([part], [losses_of(table, part.masked)])
            value, variance = value + found.value, variance + found.variance
        covered += abs(value - truth) <= half_width(variance, texts * draws // 2)
        errors.append(value - truth)
    assert 0.92 <= covered / 1000 <= 0.97
    assert abs(np.mean(errors)) < 4 * np.std(errors) / 1000**0.5


def test_the_control_variate_halves_the_variance_and_the_places_of_a_corpus_lower_it_further() -> None:
    length, texts = 8, 12
    tables = [table_of(length, seed) for seed in range(texts)]
    keys = np.arange(texts, dtype=np.uint64)
    numbers = DrawNumbers(first=0, stop=2, strata=1)
    figures: dict[str, list[float]] = {"plain": [], "controlled": [], "alone": [], "placed": []}
    for seed in range(150):
        parts = [drawn_subsets(request(length, 8, key=key, seed=seed)) for key in range(texts)]
        losses = [losses_of(table, part.masked) for table, part in zip(tables, parts, strict=True)]
        pairs = list(zip(parts, losses, strict=True))
        figures["plain"].append(sum(float((part.weight * loss).sum(axis=1).mean()) for part, loss in pairs))
        figures["controlled"].append(sum(float(draw_values(part, loss).mean()) for part, loss in pairs))
        places = places_of(keys, numbers, seed)
        for name in ("alone", "placed"):
            total = 0.0
            for key, table in enumerate(tables):
                one = attrs.evolve(request(length, 1, key=key, seed=seed), draws=numbers)
                if name == "placed":
                    one = attrs.evolve(one, place=places[key], num_places=texts)
                part = drawn_subsets(one)
                total += float(draw_values(part, losses_of(table, part.masked)).mean())
            figures[name].append(total)
    variance = {name: float(np.var(values)) for name, values in figures.items()}
    assert variance["controlled"] < 0.6 * variance["plain"]
    assert variance["placed"] < 0.75 * variance["alone"]


TEXTS = [([3, 0], [1, 4, 4, 2, 0, 5, 1, 2]), ([], [2, 2, 5, 1, 0, 3, 3, 4, 1]), ([1] * 9, [4, 0, 3, 1, 1, 5, 2])]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("bias", ["full", "block_causal"])
def test_a_score_depends_neither_on_batch_size_nor_order_nor_the_other_texts(
    make_model: Any, dtype: torch.dtype, tolerance: float, bias: str
) -> None:
    # Blocks of five tokens have more subsets than there are draws.
    model = make_model(dtype=dtype, attention_bias_component={"name": bias}, block_length=5)
    contexts, continuations = zip(*TEXTS, strict=True)
    expected = dlm.log_likelihood(model, contexts, continuations, draws=8)
    assert not bool(expected.is_exact.any())
    for batch_tokens in (1, 50):
        found = dlm.log_likelihood(model, contexts[::-1], continuations[::-1], draws=8, batch_tokens=batch_tokens)
        assert torch.allclose(found.values.flip(0), expected.values, rtol=tolerance, atol=0)
        assert torch.allclose(found.standard_errors.flip(0), expected.standard_errors, rtol=1e-4, atol=tolerance)
    for index in range(3):
        found = dlm.log_likelihood(model, [contexts[index]], [continuations[index]], draws=8)
        assert float(found.values[0]) == pytest.approx(float(expected.values[index]), rel=tolerance)


def test_options_and_models_share_their_draws_and_another_seed_has_others(make_model: Any) -> None:
    scorer = Scorer.of(make_model())
    numbers = DrawNumbers.of_text(8)
    one, other = (ScoredText.of_ids([1, 2], text, False) for text in ([3, 4, 5, 0, 1], [5, 5, 5, 5, 5]))
    masks = design_of(scorer, one, "bound", numbers, seed=0).job.masked
    assert (design_of(scorer, other, "bound", numbers, seed=0).job.masked == masks).all()
    assert (design_of(Scorer.of(make_model(seed=9)), one, "bound", numbers, seed=0).job.masked == masks).all()
    assert (design_of(scorer, one, "bound", numbers, seed=1).job.masked != masks).any()


def test_scoring_leaves_global_randomness_and_the_mode_of_the_model_alone(make_model: Any) -> None:
    model = make_model(attention_dropout=0.5).train()
    state = torch.get_rng_state()
    first, second = (dlm.log_likelihood(model, [[]], [[1, 2, 3, 4, 5]], draws=2).values for _ in range(2))
    assert torch.equal(first, second)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"continuations": [[]]}, "continuation 0 is empty"),
        ({"continuations": [[1], [2]]}, "1 contexts for 2 continuations"),
        ({"continuations": [[1] * 100]}, r"text 0 has 100 tokens; the model's context is 64: dlm\.perplexity scores"),
        ({"continuations": [[6]]}, "holds the mask token"),
        ({"continuations": ["text"]}, "texts need tokenizer="),
        ({"draws": 3}, "draws is 3; it must be even"),
        ({"method": "guess"}, "method 'guess'; use one of bound, chain_rule, all_masked, autoregressive"),
    ],
)
def test_what_cannot_be_scored_is_refused(make_model: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserInputError, match=message):
        dlm.log_likelihood(make_model(), **{"contexts": [[]], "continuations": [[1]], **arguments})


def test_intervals_are_those_of_the_tables() -> None:
    exact = {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764, 5: 2.5706, 10: 2.2281, 30: 2.0423, 10**6: 1.96}
    assert {degrees: t_quantile(degrees) for degrees in exact} == pytest.approx(exact, rel=3e-4)
    low, high = wilson(48, 60)
    assert (round(low, 4), round(high, 4)) == (0.6822, 0.8817)
    assert wilson(0, 10)[0] == 0
    assert wilson(10, 10)[1] == 1
    figure = mean_figure(np.array([1.0, 2.0, 3.0, 4.0]))
    assert figure.value == 2.5
    assert figure.data == pytest.approx(3.1824 * np.std([1, 2, 3, 4], ddof=1) / 2, rel=1e-3)
