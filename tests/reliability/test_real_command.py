"""The command itself, in fresh processes: run, kill, run again."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dlm.errors import ExitCode

STEPS = {"training": {"max_steps": 40, "checkpoint": {"every_steps": 4, "keep_last": 2, "resume": "latest"}}}
PROMISED = ("metrics.jsonl", "samples.jsonl", "final/model.safetensors", "checkpoints/step-40/optimizer.pt")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
SHARE = 12
"""A trial here, two starts of the command, for so many kills of ``test_random_kills``."""
LAST_LINE = 30
"""Lines of the log, of 40 steps and their evaluations, up to which a run is told to end."""
CODES = {
    signal.SIGKILL: -signal.SIGKILL,
    signal.SIGTERM: ExitCode.TERMINATED,
    signal.SIGINT: ExitCode.INTERRUPTED,
}
PATIENCE = 120.0
"""Seconds; a step and a save take less than one where nothing else runs, and many where much does.

``test_endings`` counts the steps.
"""


def start(config: Path, folder: Path, arguments: Sequence[str] = ()) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "dlm", "run", str(config), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for_lines(process: subprocess.Popen[str], file: Path, number: int) -> None:
    while process.poll() is None and (not file.exists() or file.read_bytes().count(b"\n") < number):
        time.sleep(0.005)


def test_runs_in_fresh_processes(
    laboratory: Any, in_parallel: Any, digest_of: Any, count: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    num_trials = max(request.config.getoption("--trials") // SHARE, len(SIGNALS))
    config = laboratory.config("fresh", STEPS)

    def whole(name: str) -> dict[str, str]:
        process = start(config, tmp_path / name)
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, output
        return digest_of(tmp_path / name / "run")

    first, second = in_parallel(whole, ["first", "second"])
    assert first == second
    count("two runs in fresh processes", "identical")

    def trial(number: int) -> tuple[str, float]:
        folder, name = tmp_path / f"trial-{number}", SIGNALS[number % len(SIGNALS)]
        process = start(config, folder)
        wait_for_lines(process, folder / "run" / "metrics.jsonl", 3 + (LAST_LINE - 3) * number // num_trials)
        process.send_signal(name)
        told = time.monotonic()
        output, _ = process.communicate(timeout=600)
        seconds = time.monotonic() - told
        if process.returncode != CODES[name] or "Traceback" in output:
            return f"trial {number}: {name.name}: exit code {process.returncode}: {output}", seconds
        process = start(config, folder)
        output, _ = process.communicate(timeout=600)
        was_saved = number > 0  # the first is killed before its first save
        if process.returncode != 0 or ("continuing from" in output) != was_saved:
            return f"trial {number}: {output}", seconds
        found = digest_of(folder / "run")
        return " ".join(f"trial {number}: {each}" for each in PROMISED if found.get(each) != first[each]), seconds

    results = in_parallel(trial, range(num_trials))
    failures = [failure for failure, _ in results if failure]
    longest = max(seconds for _, seconds in results)
    count(
        "the command in fresh processes, killed and run again",
        f"{num_trials} trials, exit codes right, at most {longest:.1f} s to the end, {len(failures)} failures",
    )
    assert not failures
    assert longest < PATIENCE
