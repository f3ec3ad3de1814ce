"""Global generators of a run that goes on elsewhere, and deterministic algorithms that the next run may not want."""

import random
from typing import Any

import numpy as np
import pytest
import torch

from dlm.training.randomness import generator_states, restore_generators, seed_everything


def numbers() -> list[float]:
    return [random.random(), float(np.random.random()), float(torch.rand(()))]


def pretend(monkeypatch: pytest.MonkeyPatch, num_gpus: int, own: int = 0) -> tuple[torch.Generator, ...]:
    """A machine whose GPUs are generators of the CPU; torch's own code asks them."""
    generators = tuple(torch.Generator().manual_seed(number) for number in range(num_gpus))
    monkeypatch.setattr(torch.cuda, "default_generators", generators)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    known: dict[str, Any] = {
        "_lazy_init": lambda: None,
        "_lazy_call": lambda call: call(),
        "is_initialized": lambda: True,
        "current_device": lambda: own,
        "device_count": lambda: num_gpus,
    }
    for name, function in known.items():
        monkeypatch.setattr(torch.cuda.random, name, function)
    return generators


def test_generators_go_on_where_they_were() -> None:
    seed_everything(3)
    states = generator_states()
    expected = numbers()
    restore_generators(states)
    assert numbers() == expected


@pytest.mark.parametrize(("before", "after", "own"), [(8, 4, 3), (8, 1, 0), (1, 8, 7), (2, 2, 1)])
def test_a_run_goes_on_where_there_are_more_or_fewer_gpus(
    monkeypatch: pytest.MonkeyPatch, before: int, after: int, own: int
) -> None:
    """The first process writes the states, and each takes that of the GPU it was written on."""
    pretend(monkeypatch, before)[0].manual_seed(77)
    states = generator_states()
    generators = pretend(monkeypatch, after, own)
    restore_generators(states)
    assert generators[own].initial_seed() == 77
    # Checkpoints used to hold the states of all GPUs that the first process saw.
    generators[own].manual_seed(1)
    restore_generators({**states, "cuda": [*states["cuda"], *[torch.Generator().get_state()] * 7]})  # type: ignore[misc]
    assert generators[own].initial_seed() == 77


def test_a_run_without_gpus_goes_on_with_some(monkeypatch: pytest.MonkeyPatch) -> None:
    states = generator_states()
    pretend(monkeypatch, 2)
    restore_generators(states)


@pytest.mark.parametrize(("wanted", "expected"), [("true", True), ("auto", True), ("false", False)])
def test_deterministic_is_what_this_run_says_whatever_ran_before_in_the_same_process(
    make_engine: Any, wanted: str, expected: bool
) -> None:
    for before in (True, False):
        torch.use_deterministic_algorithms(before)
        make_engine(f"training.deterministic={wanted}")
        assert torch.are_deterministic_algorithms_enabled() == expected
