"""Contract tests of advantages: finite numbers, each from the answers to its own prompt; equal rewards; purity."""

import attrs
import torch
from torch import Tensor

from dlm_plugins.advantage import NEEDS_VALUES, Advantage, AdvantageRequest
from dlm_plugins.testing.choices import Choices, sized_cases
from dlm_plugins.testing.property_tools import (
    at_every_value,
    contract_property,
    describe,
    for_all,
    require_close,
    require_equal,
    returned,
)
from dlm_plugins.testing.purity import require_device_kept, require_pure

_LENGTH = 6


@attrs.frozen(kw_only=True, eq=False)
class _Case:
    """Rewards of P prompts with G answers each, and a trace of every answer."""

    rewards: Tensor
    values: Tensor
    committed_step: Tensor

    def request(self, advantage: Advantage) -> AdvantageRequest:
        """With values where they are needed; the trace is always there."""
        values = self.values if NEEDS_VALUES.of(advantage) else None
        return AdvantageRequest(rewards=self.rewards, values=values, committed_step=self.committed_step)

    def answers(self, prompts: Tensor, order: Tensor) -> "_Case":
        """These prompts, the answers to each in this order."""
        num_answers = self.rewards.shape[1]
        rows = (prompts[:, None] * num_answers + order).reshape(-1)
        return _Case(
            rewards=self.rewards[prompts][:, order],
            values=self.values[rows],
            committed_step=self.committed_step[rows],
        )


def _case(choices: Choices, num_prompts: int, num_answers: int) -> _Case:
    scale = choices.choice([1.0, 1.0, 1e-6, 1e6])
    rewards = [
        [choices.choice([0.0, 1.0, choices.gauss(0, 1)]) * scale for _ in range(num_answers)]
        for _ in range(num_prompts)
    ]
    rows = num_prompts * num_answers
    return _Case(
        rewards=torch.tensor(rewards, dtype=torch.float32),
        values=torch.tensor([[choices.gauss(0, 1) for _ in range(_LENGTH)] for _ in range(rows)]),
        committed_step=torch.tensor([_trace(choices) for _ in range(rows)]),
    )


def _trace(choices: Choices) -> list[int]:
    """A prompt, an answer written in some order, several positions a step, and maybe nothing behind its end."""
    length = choices.randint(0, _LENGTH)
    start = choices.randint(0, _LENGTH - length)
    return [-1] * start + [choices.randrange(4) for _ in range(length)] + [-1] * (_LENGTH - start - length)


_CASES = sized_cases(_case, max_rows=3, max_length=5)


def _advantage(advantage: Advantage, case: _Case) -> Tensor:
    """(B,) or (B, L)."""
    found = returned(advantage.advantage(case.request(advantage)), Tensor, "advantage")
    shapes = [case.committed_step.shape[:1], case.committed_step.shape]
    if found.shape not in shapes or found.dtype != torch.float32:
        wanted = " or ".join(str(tuple(shape)) for shape in shapes)
        raise AssertionError(f"advantage is {tuple(found.shape)} {found.dtype}, not {wanted} torch.float32")
    if not found.isfinite().all():
        raise AssertionError(f"not every advantage is finite: {describe(found)}")
    return found


@at_every_value
@contract_property
def check_finite_numbers(advantage: Advantage) -> None:
    """Returns (B,) or (B, L) float32, all finite; 0 at positions where nothing was written."""

    def body(case: _Case) -> None:
        found = _advantage(advantage, case)
        if found.ndim == 2 and found[case.committed_step < 0].any():
            raise AssertionError(f"not 0 at positions where nothing was written: {describe(found)}")

    for_all(_CASES, body)


@contract_property
def check_prompts_are_alone(advantage: Advantage) -> None:
    """A prompt's advantages are the same whatever other prompts there are, and in whatever order."""

    def body(case: _Case) -> None:
        num_prompts, num_answers = case.rewards.shape
        order = torch.arange(num_answers)
        together = _advantage(advantage, case).unflatten(0, (num_prompts, num_answers))
        for prompt in reversed(range(num_prompts)):
            alone = _advantage(advantage, case.answers(torch.tensor([prompt]), order))
            require_close(alone, together[prompt], "a prompt's advantages depend on the other prompts")

    for_all(_CASES, body)


@contract_property
def check_order_of_answers(advantage: Advantage) -> None:
    """The answers to a prompt may stand in any order: each keeps its advantage."""

    def body(case: _Case) -> None:
        num_prompts, num_answers = case.rewards.shape
        turned = case.answers(torch.arange(num_prompts), torch.arange(num_answers).flip(0))
        expected = _advantage(advantage, case).unflatten(0, (num_prompts, num_answers)).flip(1).flatten(0, 1)
        require_close(_advantage(advantage, turned), expected, "the order of the answers matters")

    for_all(_CASES, body)


@at_every_value
@contract_property
def check_equal_rewards(advantage: Advantage) -> None:
    """Without values, answers that are all worth the same have advantage 0: there is nothing to learn from them."""
    if NEEDS_VALUES.of(advantage):
        return

    def body(case: _Case) -> None:
        found = _advantage(advantage, attrs.evolve(case, rewards=case.rewards[:, :1].expand_as(case.rewards)))
        if found.any():
            raise AssertionError(f"all rewards of a prompt are equal, but not every advantage is 0: {describe(found)}")

    for_all(_CASES, body)


@at_every_value
@contract_property
def check_better_is_better(advantage: Advantage) -> None:
    """Of two answers to a prompt that were written alike, one worth 1 has a greater advantage than one worth 0."""

    def body(case: _Case) -> None:
        num_prompts, num_answers = case.rewards.shape
        alike = torch.zeros(num_prompts * num_answers, dtype=torch.int64)  # one trace, and the same values, for all
        written = case.committed_step[alike].clamp(min=0)
        rewards = (case.rewards > 0).float()
        found = _advantage(advantage, _Case(rewards=rewards, values=case.values[alike], committed_step=written))
        worth = (found if found.ndim == 1 else found.sum(dim=1)).view(num_prompts, num_answers)
        for prompt in range(num_prompts):
            right, wrong = worth[prompt, rewards[prompt] == 1], worth[prompt, rewards[prompt] == 0]
            if len(right) and len(wrong) and not right.min() > wrong.max():
                found_here = f"rewards {describe(rewards[prompt])} have advantages {describe(worth[prompt])}"
                raise AssertionError(f"{found_here}: better is not greater")

    for_all(_CASES, body)


@contract_property
def check_pure(advantage: Advantage) -> None:
    """Same answer every time, no global randomness, no change to what it is handed, any device."""

    def body(case: _Case) -> None:
        require_pure(advantage.advantage, case.request(advantage))
        there = _Case(
            rewards=case.rewards.to("meta"),
            values=case.values.to("meta"),
            committed_step=case.committed_step.to("meta"),
        )
        require_device_kept(lambda: advantage.advantage(there.request(advantage)))

    for_all(_CASES, body, max_examples=5)


@at_every_value
@contract_property
def check_claims(advantage: Advantage) -> None:
    """Where ``needs_values`` is not claimed, values change nothing."""
    if NEEDS_VALUES.of(advantage):
        return

    def body(case: _Case) -> None:
        request = attrs.evolve(case.request(advantage), values=case.values)
        found = returned(advantage.advantage(request), Tensor, "advantage")
        require_equal(found, _advantage(advantage, case), "values change it, but needs_values is not claimed")

    for_all(_CASES, body)


PROPERTIES = (
    check_finite_numbers,
    check_prompts_are_alone,
    check_order_of_answers,
    check_equal_rewards,
    check_better_is_better,
    check_pure,
    check_claims,
)
