"""Signals: what ends a run, when, and with which exit code."""

import signal
from pathlib import Path
from typing import Any

import pytest

from dlm.errors import ExitCode
from dlm.training.checkpoints.checkpoint_store import CheckpointStore

PROMISED = ("metrics.jsonl", "samples.jsonl", "final/model.safetensors", "checkpoints/step-12/optimizer.pt")
ENDINGS = {"SIGTERM": ExitCode.TERMINATED, "SIGINT": ExitCode.INTERRUPTED}


def newest(folder: Path) -> str:
    checkpoint, rejected = CheckpointStore(folder / "run" / "checkpoints", keep_last=2).latest()
    assert checkpoint is not None
    assert not rejected
    return checkpoint.name


def assert_promised_files_are_equal(found: dict[str, str], reference: dict[str, str]) -> None:
    assert {name: found.get(name) for name in PROMISED} == {name: reference[name] for name in PROMISED}


@pytest.mark.parametrize("name", ENDINGS)
def test_a_signal_in_any_step_ends_the_run_after_that_step(
    laboratory: Any, in_parallel: Any, digest_of: Any, count: Any, tmp_path: Path, name: str
) -> None:
    config = laboratory.config("pretrain-adamw")
    reference = laboratory.reference(config)

    def trial(step: int) -> str:
        folder = tmp_path / str(step)
        outcome = laboratory.run(config, folder, inject=["signal_in_backward", 2 * step - 1, name])
        if outcome.code != ENDINGS[name] or newest(folder) != f"step-{step}" or "Traceback" in outcome.log:
            return f"step {step}: exit code {outcome.code}, {newest(folder)}: {outcome.log}"
        outcome = laboratory.run(config, folder)
        if outcome.code != 0:
            return f"step {step}: {outcome.log}"
        found = digest_of(folder / "run")
        return " ".join(f"step {step}: {each}" for each in PROMISED if found.get(each) != reference[each])

    failures = [failure for failure in in_parallel(trial, range(1, 13)) if failure]
    count(f"{name} in each step", f"12 runs, exit code {ENDINGS[name].value}, ended after that step, 0 different")
    assert not failures


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", ExitCode.TERMINATED), ("SIGINT", ExitCode.INTERRUPTED)])
def test_the_same_signal_again_ends_the_run_at_once(
    laboratory: Any, digest_of: Any, tmp_path: Path, name: str, code: int
) -> None:
    config = laboratory.config("pretrain-adamw")
    outcome = laboratory.run(config, tmp_path, inject=["signal_in_backward", 10, name, 1.2, name])
    assert outcome.code == code, outcome.log
    assert newest(tmp_path) == "step-4"  # step 5 was not finished
    assert laboratory.run(config, tmp_path).code == 0
    assert digest_of(tmp_path / "run") == laboratory.reference(config)


@pytest.mark.parametrize(
    "names",
    [("SIGINT", "SIGINT"), ("SIGINT", 1.2, "SIGTERM"), ("SIGTERM", "SIGTERM"), ("SIGHUP", 1.2, "SIGHUP", "SIGTERM")],
)
def test_a_launcher_or_shell_that_passes_a_signal_on_does_not_end_the_run_in_the_middle_of_a_step(
    laboratory: Any, digest_of: Any, tmp_path: Path, names: tuple[str | float, ...]
) -> None:
    config = laboratory.config("pretrain-adamw")
    outcome = laboratory.run(config, tmp_path, inject=["signal_in_backward", 10, *names])
    assert outcome.code == {**ENDINGS, "SIGHUP": ExitCode.HUNG_UP}[str(names[0])], outcome.log
    assert newest(tmp_path) == "step-5"
    assert laboratory.run(config, tmp_path).code == 0
    assert_promised_files_are_equal(digest_of(tmp_path / "run"), laboratory.reference(config))


def test_a_signal_to_save_saves_and_goes_on(laboratory: Any, digest_of: Any, tmp_path: Path) -> None:
    config = laboratory.config("rare-saves", {"training": {"checkpoint": {"every_steps": 100, "resume": "latest"}}})
    outcome = laboratory.run(config, tmp_path, inject=["signal_in_backward", 9, "SIGUSR1"])
    assert outcome.code == 0, outcome.log
    checkpoints = CheckpointStore(tmp_path / "run" / "checkpoints", keep_last=3)
    assert checkpoints.steps() == [5, 12]
    assert_promised_files_are_equal(digest_of(tmp_path / "run"), laboratory.reference(config))


@pytest.mark.parametrize("name", ENDINGS)
def test_a_signal_to_the_data_workers_too_ends_the_run_in_the_same_way(
    laboratory: Any, digest_of: Any, tmp_path: Path, name: str
) -> None:
    config = laboratory.config("pretrain-adamw")
    arguments = ["dataset.num_workers=1"]
    outcome = laboratory.run(config, tmp_path, inject=["signal_workers", 9, name], arguments=arguments)
    assert outcome.code == ENDINGS[name], outcome.log
    assert newest(tmp_path) == "step-5"
    assert laboratory.run(config, tmp_path, arguments=arguments).code == 0
    assert_promised_files_are_equal(digest_of(tmp_path / "run"), laboratory.reference(config))


def test_killed_means_killed(laboratory: Any, tmp_path: Path) -> None:
    outcome = laboratory.run(laboratory.config("pretrain-adamw"), tmp_path, inject=["die_in_backward", 5])
    assert outcome.code == -signal.SIGKILL
