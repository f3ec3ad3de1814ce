"""The end of a text: stopping, suppressing, delaying."""

from typing import Any

import pytest
import torch
from torch import Tensor

from dlm.errors import UserInputError
from dlm.sampling import generate
from dlm_builtin_plugins.attention_biases.block import BlockAttention
from dlm_builtin_plugins.remasking.confidence_temperature import ConfidenceTemperature
from dlm_builtin_plugins.remasking.entropy import LowEntropy
from dlm_builtin_plugins.remasking.low_confidence import LowConfidence
from dlm_builtin_plugins.remasking.margin import LargeMargin
from dlm_builtin_plugins.remasking.random import RandomOrder
from dlm_plugins import Decision, DecodingState, Remasker

PROMPT = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
ARGUMENTS: dict[str, Any] = {"gen_length": 20, "steps": 20, "block_length": 4}


def first_end(row: torch.Tensor, eos_id: int) -> int:
    found = (row == eos_id).nonzero()
    return int(found[0]) if len(found) else len(row)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bias", [None, BlockAttention()])
def test_stopping_leaves_the_text_up_to_the_end_as_it_was(frozen_model: Any, bias: Any, temperature: float) -> None:
    num_stopped = 0
    for seed in range(4):
        model = frozen_model(seed=seed)
        arguments = {**ARGUMENTS, "attention_bias": bias, "temperature": temperature, "seed": seed}
        free = generate(model, PROMPT, cache="off", **arguments)
        eos_id = int(free.sequences[0, 8])
        for cache in ("auto", "off"):
            stopped = generate(model, PROMPT, eos_id=eos_id, cache=cache, **arguments)
            for row in range(3):
                answer, whole = stopped.sequences[row, 3:], free.sequences[row, 3:]
                end = first_end(whole, eos_id)
                assert answer[: end + 1].equal(whole[: end + 1])
                after = (end // 4 + 1) * 4
                assert (answer[after:] == eos_id).all()
                assert (stopped.committed_step[row, 3 + after :] == -1).all()
                num_stopped += after < 20
    assert num_stopped >= 8


def test_rows_that_ended_are_not_decoded_any_further(frozen_model: Any) -> None:
    model = frozen_model()
    free = generate(model, PROMPT[:1], **ARGUMENTS)
    eos_id = int(free.sequences[0, 4])
    stopped = generate(model, PROMPT[:1], eos_id=eos_id, **ARGUMENTS)
    assert free.num_forwards == 20
    assert stopped.num_forwards == 4


def test_an_end_of_text_in_the_prompt_or_before_given_text_is_none(frozen_model: Any) -> None:
    model, eos_id = frozen_model(), 3
    plain = generate(model, PROMPT, **ARGUMENTS).sequences
    stopped = generate(model, PROMPT, eos_id=eos_id, suppress_tokens=[], **ARGUMENTS).sequences
    assert stopped[0, :7].equal(plain[0, :7])
    gap = torch.tensor([[1, 49, 49, 2, 49, 5]])
    filled = generate(model, gap, gen_length=0, steps=3, block_length=2)
    ended = generate(model, gap, gen_length=0, steps=3, block_length=2, eos_id=int(filled.sequences[0, 1]))
    assert ended.sequences.equal(filled.sequences)


@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_suppressed_ids_are_never_written_at_any_temperature(frozen_model: Any, temperature: float) -> None:
    model = frozen_model()
    wanted = generate(model, PROMPT, temperature=temperature, **ARGUMENTS).sequences[:, 3:].unique().tolist()
    output = generate(model, PROMPT, temperature=temperature, suppress_tokens=wanted, **ARGUMENTS)
    assert not torch.isin(output.sequences[:, 3:], torch.tensor(wanted)).any()


class Watched:
    """Low confidence, with a look at what it lets through."""

    def __init__(self, eos_id: int) -> None:
        self.eos_id = eos_id
        self.num_passed_over = 0

    def decide(self, state: DecodingState) -> Decision:
        decision = LowConfidence().decide(state)
        is_end = state.candidates == self.eos_id
        ends_written = (decision.commit & is_end).any(dim=1)
        others_wait = (state.masked & ~decision.commit & ~is_end).any(dim=1)
        assert not (ends_written & others_wait).any()
        assert (state.confidence[state.masked & is_end] == 0).all()
        self.num_passed_over += int((state.masked & is_end & ~decision.commit).sum())
        return decision


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_penalised_end_is_written_only_where_nothing_else_is_proposed(frozen_model: Any, temperature: float) -> None:
    arguments: dict[str, Any] = {"gen_length": 12, "steps": 12, "temperature": temperature}
    num_passed_over = 0
    for seed in range(6):
        model = frozen_model(seed=seed)
        eos_id = int(generate(model, PROMPT, **arguments).sequences[:, 3:].mode().values[0])
        watched = Watched(eos_id)
        late = generate(model, PROMPT, eos_id=eos_id, eos="late", remasking=watched, **arguments)
        assert torch.isfinite(late.log_probabilities).all()
        num_passed_over += watched.num_passed_over
    assert num_passed_over > 0


class Recorded:
    """A rule, and what it chose from at each step."""

    def __init__(self, rule: Remasker) -> None:
        self.rule = rule
        self.seen: list[tuple[Tensor, Tensor]] = []

    def decide(self, state: DecodingState) -> Decision:
        self.seen.append((state.candidates, state.masked))
        return self.rule.decide(state)


@pytest.mark.parametrize("rule", [RandomOrder(), LowEntropy(), LargeMargin(), ConfidenceTemperature()], ids=repr)
def test_an_end_comes_last_whatever_the_order(frozen_model: Any, rule: Remasker) -> None:
    arguments: dict[str, Any] = {"gen_length": 12, "steps": 6, "temperature": 1.0}
    num_passed_over = 0
    for seed in range(4):
        model, recorded = frozen_model(seed=seed), Recorded(rule)
        eos_id = int(generate(model, PROMPT, **arguments).sequences[:, 3:].mode().values[0])
        late = generate(model, PROMPT, eos_id=eos_id, eos="late", remasking=recorded, **arguments)
        for step, (candidates, masked) in enumerate(recorded.seen):
            written, is_end = late.committed_step[:, 3:] == step, candidates == eos_id
            assert (written & masked).equal(written)
            others_wait = (masked & ~written & ~is_end).any(dim=1)
            assert not (others_wait & (written & is_end).any(dim=1)).any()
            num_passed_over += int((masked & is_end & ~written).sum())
    assert num_passed_over > 0


def test_an_end_is_asked_for_where_the_model_names_none(frozen_model: Any) -> None:
    for policy in ("suppress", "late"):
        with pytest.raises(UserInputError, match="eos_id"):
            generate(frozen_model(eos_token_id=None), PROMPT, **ARGUMENTS, eos=policy)


def test_the_end_of_the_model_is_used_by_default(frozen_model: Any) -> None:
    free = generate(frozen_model(), PROMPT[:1], **ARGUMENTS)
    eos_id = int(free.sequences[0, 4])
    for own in (eos_id, [48, eos_id]):
        model = frozen_model.__wrapped__(eos_token_id=own)
        assert generate(model, PROMPT[:1], **ARGUMENTS).num_forwards == 4
