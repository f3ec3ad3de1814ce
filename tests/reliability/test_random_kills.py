"""kill -9 at random moments."""

import random
import signal
from pathlib import Path
from typing import Any

import pytest

OPTIMIZERS: dict[str, dict[str, object]] = {
    "adamw": {"name": "adamw", "lr": 1e-3},
    "adamw8bit": {"name": "adamw8bit", "lr": 1e-3},
    "lion8bit": {"name": "lion8bit", "lr": 1e-4},
}
MODES = ("pretrain", "sft", "rl")
FEWEST_INSIDE = 0.3
MAX_KILLS = 3
MAX_SAVES = 4
"""A kill inside a save waits for at most so many of them: a resumed run has only a few left."""
LONGEST_SAVE = 0.03  # seconds; about as long as saves take


def test_killed_at_random_moments(
    laboratory: Any, in_parallel: Any, digest_of: Any, count: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    num_trials = request.config.getoption("--trials")
    configs = [
        laboratory.config(f"{mode}-{name}", {**laboratory.mode(mode), "optim": optimizer})
        for name, optimizer in OPTIMIZERS.items()
        for mode in MODES
    ]
    references = {config: laboratory.reference(config) for config in configs}
    typical = laboratory.run(configs[0], tmp_path / "typical")
    assert typical.code == 0, typical.log

    def trial(number: int) -> tuple[int, int, str]:
        draws = random.Random(number)
        config, folder = configs[number % len(configs)], tmp_path / f"trial-{number}"
        num_kills = num_inside = 0
        for _ in range(draws.randint(1, MAX_KILLS)):
            kill: dict[str, object] = {"kill_after": draws.uniform(0, 0.9 * typical.seconds)}
            if draws.random() < 0.5:
                kill = {"kill_in_save": [draws.randint(1, MAX_SAVES), draws.uniform(0, LONGEST_SAVE)]}
            outcome = laboratory.run(config, folder, **kill)
            if outcome.code == -signal.SIGKILL:
                num_kills += 1
                num_inside += outcome.inside_save
            else:
                assert outcome.code == 0, outcome.log
                break
        outcome = laboratory.run(config, folder)
        if outcome.code != 0:
            return num_kills, num_inside, outcome.log
        found, reference = digest_of(folder / "run"), references[config]
        differing = [name for name in {**found, **reference} if found.get(name) != reference.get(name)]
        return num_kills, num_inside, " ".join(differing)

    results = in_parallel(trial, range(num_trials))
    num_kills, num_inside = sum(each[0] for each in results), sum(each[1] for each in results)
    different = [(number, result[2]) for number, result in enumerate(results) if result[2]]
    count(
        "kill -9 at random moments",
        f"{num_trials} trials, {num_kills} kills, {num_inside / max(num_kills, 1):.0%} of them inside a save, "
        f"{len(different)} different",
    )
    assert not different
    assert num_kills >= 0.8 * num_trials
    assert num_inside >= FEWEST_INSIDE * num_kills
