"""What ``training.checkpoint.resume`` means, and what it refuses."""

import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest

import dlm
from dlm.errors import ExitCode

RESUME = "training.checkpoint.resume"


@pytest.fixture
def interrupted(laboratory: Any, tmp_path: Path) -> Path:
    """A folder in which a run was killed when the checkpoint of step 6 was there."""
    config = laboratory.config("pretrain-adamw")
    outcome = laboratory.run(config, tmp_path, die_at=["published", 3])
    assert outcome.code == -signal.SIGKILL
    assert (tmp_path / "run" / "checkpoints" / "step-6").is_dir()
    return tmp_path


def test_without_a_word_a_folder_with_checkpoints_is_refused(
    laboratory: Any, interrupted: Path, digest_of: Any
) -> None:
    before = digest_of(interrupted / "run")
    outcome = laboratory.run(laboratory.config("pretrain-adamw"), interrupted, arguments=[f"{RESUME}=null"])
    assert outcome.code == ExitCode.USER_INPUT
    for way_out in (f"{RESUME}=latest", "resume=none", "another training.output_dir", "up to step 6"):
        assert way_out in outcome.log
    assert digest_of(interrupted / "run") == before


def test_each_line_has_the_learning_rate_of_its_own_step_after_resuming_too(laboratory: Any, tmp_path: Path) -> None:
    config = laboratory.config("pretrain-adamw")
    arguments = ["optim.lr_scheduler=linear", "optim.warmup_steps=4", "logging.every_steps=1"]
    for inject in (["die_in_backward", 14], None):
        laboratory.run(config, tmp_path, arguments=arguments, inject=inject)
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    rates = [line["lr"] for line in lines if line["split"] == "train"]
    shares = [0, 1 / 4, 2 / 4, 3 / 4, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]
    assert rates == pytest.approx([1e-3 * share for share in shares])


def test_none_keeps_the_old_run_aside(laboratory: Any, interrupted: Path, digest_of: Any) -> None:
    config = laboratory.config("pretrain-adamw")
    old = (interrupted / "run" / "metrics.jsonl").read_bytes()
    for number in (1, 2):
        outcome = laboratory.run(config, interrupted, arguments=[f"{RESUME}=none"])
        assert outcome.code == 0, outcome.log
        assert f"kept in run/previous-{number}" in outcome.log
    assert (interrupted / "run" / "previous-1" / "metrics.jsonl").read_bytes() == old
    assert (interrupted / "run" / "previous-1" / "checkpoints" / "step-6").is_dir()
    reference = laboratory.reference(config)
    for name in ("metrics.jsonl", "final/model.safetensors"):
        assert digest_of(interrupted / "run")[name] == reference[name]


def test_a_path_of_its_own_goes_back(laboratory: Any, interrupted: Path, digest_of: Any) -> None:
    config = laboratory.config("pretrain-adamw")
    arguments = [f"{RESUME}=run/checkpoints/step-4"]
    # Killed again and again, the same command starts from the same place: rotation leaves that alone.
    for _ in range(2):
        outcome = laboratory.run(config, interrupted, arguments=arguments, inject=["die_in_backward", 14])
        assert outcome.code == -signal.SIGKILL
        assert "continuing from run/checkpoints/step-4" in outcome.log
    assert (interrupted / "run" / "previous-1" / "checkpoints" / "step-6").is_dir()
    assert laboratory.run(config, interrupted, arguments=arguments).code == 0
    found, reference = digest_of(interrupted / "run"), laboratory.reference(config)
    for name in ("metrics.jsonl", "samples.jsonl", "final/model.safetensors", "checkpoints/step-12/optimizer.pt"):
        assert found[name] == reference[name]


def test_a_path_of_another_run_starts_with_empty_logs(laboratory: Any, interrupted: Path, tmp_path: Path) -> None:
    config = laboratory.config("pretrain-adamw")
    arguments = ["training.output_dir=second", f"{RESUME}=run/checkpoints/step-6"]
    outcome = laboratory.run(config, interrupted, arguments=arguments)
    assert outcome.code == 0, outcome.log
    first_line = (interrupted / "second" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[0]
    assert '"step": 8' in first_line


def test_the_best_of_a_folder_is_measured_against_what_it_holds(laboratory: Any, tmp_path: Path) -> None:
    """Step 6 of the first run is better than all of the second one, which goes on from a later one."""
    config = laboratory.config("pretrain-adamw")
    laboratory.run(config, tmp_path, die_at=["published", 4])
    worse = ["optim.lr=0.5", "--allow-change", "optim.lr"]
    arguments = ["training.output_dir=second", f"{RESUME}=run/checkpoints/step-8", *worse]
    assert laboratory.run(config, tmp_path, arguments=arguments).code == 0
    first, second = (json.loads((tmp_path / each / "checkpoints" / "best").read_text()) for each in ("run", "second"))
    assert (first["step"], second["step"]) == (6, 12)
    assert second["loss"] > first["loss"]


def test_what_may_not_change_is_listed_and_can_be_allowed(laboratory: Any, interrupted: Path) -> None:
    config = laboratory.config("pretrain-adamw")
    changes = ["training.batch_size=4", "training.seed=1", "evaluation.fraction=0.1", "optim.lr=0.002"]
    outcome = laboratory.run(config, interrupted, arguments=changes)
    assert outcome.code == ExitCode.USER_INPUT
    for key in ("training.batch_size: 2 in the checkpoint, 4 now", "training.seed:", "data_fingerprint:", "optim.lr:"):
        assert key in outcome.log
    allowed = ["--allow-change", "optim"]
    outcome = laboratory.run(config, interrupted, arguments=["optim.lr=0.002", *allowed])
    assert outcome.code == 0, outcome.log
    assert "changed since the checkpoint: optim.lr: 0.001 in the checkpoint, 0.002 now" in outcome.log
    outcome = laboratory.run(config, interrupted, arguments=["--allow-change", "optim.betta"])
    assert outcome.code == ExitCode.USER_INPUT
    assert "there is no such key" in outcome.log


def test_another_batch_size_goes_on_behind_the_rows_that_were_seen(laboratory: Any, interrupted: Path) -> None:
    config = laboratory.config("pretrain-adamw")
    for size, batch in ((4, 3), (1, 12)):
        arguments = [f"training.batch_size={size}", "--allow-change", "training.batch_size"]
        arguments += [f"{RESUME}=run/checkpoints/step-6"]
        outcome = laboratory.run(config, interrupted, arguments=arguments)
        assert outcome.code == 0, outcome.log
        assert f"step 6, epoch 0, batch {batch}," in outcome.log


@pytest.mark.parametrize("resume", ["latest", "run/checkpoints/step-6"])
def test_a_log_without_its_lines_is_refused(laboratory: Any, interrupted: Path, digest_of: Any, resume: str) -> None:
    (interrupted / "run" / "metrics.jsonl").write_text("")
    before = digest_of(interrupted / "run")
    outcome = laboratory.run(laboratory.config("pretrain-adamw"), interrupted, arguments=[f"{RESUME}={resume}"])
    assert outcome.code == ExitCode.CHECKPOINT
    assert "step-6: run/metrics.jsonl had" in outcome.log
    assert "and has 0: its end is gone" in outcome.log
    assert digest_of(interrupted / "run") == before


def test_a_finished_run_without_checkpoints_is_not_overwritten(laboratory: Any, tmp_path: Path) -> None:
    import shutil

    config = laboratory.config("pretrain-adamw")
    assert laboratory.run(config, tmp_path).code == 0
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    outcome = laboratory.run(config, tmp_path)
    assert outcome.code == ExitCode.USER_INPUT
    assert "holds a finished model" in outcome.log


def test_nothing_is_unpickled() -> None:
    """Every ``torch.load`` says weights_only=True, and no file is a pickle: only processes of a run exchange them."""
    messages = "training/processes.py"
    num_calls = 0
    for source in Path(dlm.__path__[0]).rglob("*.py"):
        text = source.read_text(encoding="utf-8")
        calls = re.findall(r"torch\.load\([^)]*\)", text)
        assert all("weights_only=True" in call for call in calls), source
        if source.match(messages):
            assert "open(" not in text
            continue
        assert not re.search(r"pickle\.(loads?|dumps?|Unpickler|Pickler)\b|\bdill\b|\bjoblib\b", text), source
        num_calls += len(calls)
    assert num_calls > 0
