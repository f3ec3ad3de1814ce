"""kill -9 aimed at each part of a step that learns from rewards: rollout, reward, update, save."""

import random
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

PLACES = ("rollout", "reward", "update", "save")
MANY_TRIALS, TRIALS_FOR_EACH = 60, 5
"""Trials of a full run; else one for each so many kills at random moments."""
MOST_CALLS = {"rollout": 5, "reward": 6, "update": 10, "save": 3}
"""A kill waits for at most so many calls: of twelve steps a run that goes on may have half left."""
MAX_KILLS = 2


def test_killed_in_every_part_of_a_step(
    laboratory: Any, in_parallel: Any, digest_of: Any, count: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    config = laboratory.config("rl", laboratory.mode("rl"))
    reference = laboratory.reference(config)
    num_trials = max(len(PLACES), request.config.getoption("--trials") // TRIALS_FOR_EACH)
    if request.config.getoption("--full"):
        num_trials = max(num_trials, MANY_TRIALS)

    def trial(number: int) -> tuple[list[str], str]:
        draws, folder, killed_in = random.Random(number), tmp_path / f"trial-{number}", []
        first = PLACES[number % len(PLACES)]
        for place in [first, *draws.choices(PLACES, k=draws.randint(1, MAX_KILLS) - 1)]:
            kill = ["die_in", place, draws.randint(1, MOST_CALLS[place]), draws.random()]
            outcome = laboratory.run(config, folder, inject=kill)
            if outcome.code != -signal.SIGKILL:
                return killed_in, f"{kill} was not reached: {outcome.log}"
            killed_in.append(place)
        outcome = laboratory.run(config, folder)
        if outcome.code != 0:
            return killed_in, outcome.log
        found = digest_of(folder / "run")
        return killed_in, " ".join(name for name in {**found, **reference} if found.get(name) != reference.get(name))

    results = in_parallel(trial, range(num_trials))
    kills = Counter(place for places, _ in results for place in places)
    different = [(number, what) for number, (_, what) in enumerate(results) if what]
    aimed = ", ".join(f"{kills[place]} in {place}" for place in PLACES)
    count("kill -9 in a step of mode rl", f"{num_trials} trials, {aimed}, {len(different)} different")
    assert not different
    assert all(kills[place] for place in PLACES)
