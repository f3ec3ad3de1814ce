"""Advantages against their formulas, computed one answer at a time in plain Python."""

import math
import random
import statistics

import pytest
import torch

from dlm_builtin_plugins.advantages.group import GroupAdvantage
from dlm_builtin_plugins.advantages.value import ValueAdvantage
from dlm_plugins import AdvantageRequest


@pytest.mark.parametrize("scale", ["none", "std"])
@pytest.mark.parametrize("baseline", ["leave_one_out", "mean"])
def test_group_is_the_reward_minus_that_of_the_others(baseline: str, scale: str) -> None:
    chance = random.Random(1)
    rewards = [[chance.choice([0.0, 0.5, 1.0]) for _ in range(5)] for _ in range(20)]
    found = GroupAdvantage(baseline=baseline, scale=scale).advantage(AdvantageRequest(rewards=torch.tensor(rewards)))
    expected = []
    for group in rewards:
        spread = statistics.pstdev(group)
        for index, reward in enumerate(group):
            others = group[:index] + group[index + 1 :] if baseline == "leave_one_out" else group
            excess = reward - statistics.fmean(others)
            expected.append(0.0 if spread == 0 else excess / (spread if scale == "std" else 1.0))
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_leave_one_out_is_the_mean_times_the_number_of_answers_over_one_less() -> None:
    request = AdvantageRequest(rewards=torch.rand(3, 7, generator=torch.Generator().manual_seed(0)))
    one_out, mean = (GroupAdvantage(baseline=name).advantage(request) for name in ("leave_one_out", "mean"))
    torch.testing.assert_close(one_out, mean * 7 / 6)


@pytest.mark.parametrize("scale", ["none", "std"])
def test_sums_that_differ_in_their_last_digit_are_equal(scale: str) -> None:
    rewards = torch.tensor([[0.1 + 0.2, 0.3, 0.30000001, 0.3]], dtype=torch.float32)
    rewards[0, 1] = rewards[0, 0].nextafter(torch.tensor(1.0))
    assert len(set(rewards[0].tolist())) > 1
    assert GroupAdvantage(scale=scale).advantage(AdvantageRequest(rewards=rewards)).tolist() == [0.0] * 4


def test_an_answer_alone_has_none() -> None:
    assert GroupAdvantage(scale="std").advantage(AdvantageRequest(rewards=torch.ones(2, 1))).tolist() == [0.0, 0.0]


def traced(seed: int) -> tuple[float, list[float], list[int]]:
    """A reward, values and a trace with gaps: some steps wrote nothing."""
    chance = random.Random(seed)
    steps = [-1, -1] + [chance.choice([0, 1, 3, 4, 7]) for _ in range(6)]
    return chance.random(), [chance.gauss(0, 1) for _ in steps], steps


def expected_of(reward: float, values: list[float], steps: list[int], gae_lambda: float, gamma: float) -> list[float]:
    """The sum of discounted TD errors over the steps to come, as the papers write it."""
    order = sorted({step for step in steps if step >= 0})
    value = [statistics.fmean(v for v, s in zip(values, steps, strict=True) if s == step) for step in order]
    after = [*value[1:], 0.0]
    came = [0.0] * (len(order) - 1) + [reward]
    error = [r + gamma * v - own for r, v, own in zip(came, after, value, strict=True)]
    found = []
    for own, step in zip(values, steps, strict=True):
        if step < 0:
            found.append(0.0)
            continue
        at = order.index(step)
        later = sum((gamma * gae_lambda) ** (k - at) * error[k] for k in range(at + 1, len(order)))
        found.append(came[at] + gamma * after[at] - own + later)
    return found


@pytest.mark.parametrize(("gae_lambda", "gamma"), [(1.0, 1.0), (0.95, 0.99), (0.0, 0.9), (0.5, 0.0)])
def test_value_is_the_sum_of_discounted_errors(gae_lambda: float, gamma: float) -> None:
    rows = [traced(seed) for seed in range(30)]
    found = ValueAdvantage(gae_lambda=gae_lambda, gamma=gamma).advantage(
        AdvantageRequest(
            rewards=torch.tensor([row[0] for row in rows]).view(10, 3),
            values=torch.tensor([row[1] for row in rows]),
            committed_step=torch.tensor([row[2] for row in rows]),
        )
    )
    expected = [expected_of(*row, gae_lambda, gamma) for row in rows]
    assert found.flatten().tolist() == pytest.approx([each for row in expected for each in row], abs=1e-5)


def test_undiscounted_value_is_the_reward_minus_the_value() -> None:
    reward, values, steps = traced(3)
    found = ValueAdvantage().advantage(
        AdvantageRequest(
            rewards=torch.tensor([[reward]]), values=torch.tensor([values]), committed_step=torch.tensor([steps])
        )
    )
    expected = [reward - value if step >= 0 else 0.0 for value, step in zip(values, steps, strict=True)]
    assert found[0].tolist() == pytest.approx(expected, abs=1e-6)
    assert not math.isclose(sum(expected), 0.0)


def test_value_without_values_says_what_it_needs() -> None:
    with pytest.raises(ValueError, match="needs the values of a value model"):
        ValueAdvantage().advantage(AdvantageRequest(rewards=torch.ones(1, 2)))
