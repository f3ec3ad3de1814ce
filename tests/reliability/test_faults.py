"""Numbers that are not finite, memory that is not there, workers that die."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dlm.errors import ExitCode

NUM_STEPS = 10


def config_of(laboratory: Any) -> Path:
    checkpoint = {"every_steps": 1, "keep_last": 20, "resume": "latest"}
    config: Path = laboratory.config("faults", {"training": {"max_steps": NUM_STEPS, "checkpoint": checkpoint}})
    return config


def all_finite(folder: Path) -> bool:
    weights = [load_file(file) for file in folder.glob("run/**/model.safetensors")]
    assert weights
    return all(bool(torch.isfinite(tensor).all()) for each in weights for tensor in each.values())


def same_weights_and_moments(checkpoints: Path, first: int, second: int) -> bool:
    folders = [checkpoints / f"step-{step}" for step in (first, second)]
    weights = [(folder / "model.safetensors").read_bytes() for folder in folders]
    moments = [torch.load(folder / "optimizer.pt", weights_only=True)["state"] for folder in folders]
    return weights[0] == weights[1] and all(
        torch.equal(torch.as_tensor(value), torch.as_tensor(moments[1][number][name]))
        for number, values in moments[0].items()
        for name, value in values.items()
    )


@pytest.mark.parametrize("fault", ["poison_loss", "poison_gradient"])
def test_a_step_that_is_not_finite_is_not_taken(
    laboratory: Any, in_parallel: Any, count: Any, tmp_path: Path, fault: str
) -> None:
    config = config_of(laboratory)

    def trial(step: int) -> str:
        folder, value = tmp_path / str(step), (math.nan, math.inf)[step % 2]
        outcome = laboratory.run(config, folder, inject=[fault, [step], value])
        if outcome.code != 0 or f"step {step}: loss" not in outcome.log:
            return f"step {step}: exit code {outcome.code}: {outcome.log}"
        lines = (folder / "run" / "bad_batches.jsonl").read_text(encoding="utf-8").splitlines()
        bad = [json.loads(line) for line in lines]
        if [record["step"] for record in bad] != [step] or len(bad[0]["rows"]) != 4:
            return f"step {step}: recorded {bad}"
        if step > 1 and not same_weights_and_moments(folder / "run" / "checkpoints", step - 1, step):
            return f"step {step}: weights or optimizer changed"
        return "" if all_finite(folder) else f"step {step}: parameters are not finite"

    failures = [failure for failure in in_parallel(trial, range(1, NUM_STEPS + 1)) if failure]
    count(f"{fault.replace('_', ' ')} at each of {NUM_STEPS} steps", f"{NUM_STEPS} runs, {len(failures)} failures")
    assert not failures


def test_the_third_bad_step_in_a_row_ends_the_run(laboratory: Any, digest_of: Any, tmp_path: Path) -> None:
    config = config_of(laboratory)
    outcome = laboratory.run(config, tmp_path, inject=["poison_loss", [4, 5, 6], math.nan])
    assert outcome.code == ExitCode.NON_FINITE
    assert "3 times in a row, at step 6" in outcome.log
    assert "Traceback" not in outcome.log
    assert all_finite(tmp_path)
    # Two in a row are survived, also when the run is interrupted between them.
    outcome = laboratory.run(config, tmp_path / "other", inject=["poison_loss", [4, 5], math.nan])
    assert outcome.code == 0, outcome.log


@pytest.mark.parametrize("fault", ["poison_loss", "poison_gradient"])
def test_a_loss_scaler_goes_on_after_steps_that_were_not_taken(laboratory: Any, tmp_path: Path, fault: str) -> None:
    config, fp16 = config_of(laboratory), {"arguments": ["training.mixed_precision=fp16"], "scales": True}
    outcome = laboratory.run(config, tmp_path, inject=[fault, [1, 4, 5, 7], math.nan], **fp16)
    assert outcome.code == 0, outcome.log
    assert all_finite(tmp_path)
    checkpoints = tmp_path / "run" / "checkpoints"
    steps = range(1, NUM_STEPS)
    unchanged = [step + 1 for step in steps if same_weights_and_moments(checkpoints, step, step + 1)]
    assert unchanged == [4, 5, 7]


def test_the_third_bad_step_in_a_row_ends_a_run_with_a_loss_scaler(laboratory: Any, tmp_path: Path) -> None:
    fp16 = {"arguments": ["training.mixed_precision=fp16"], "scales": True}
    outcome = laboratory.run(config_of(laboratory), tmp_path, inject=["poison_loss", [4, 5, 6], math.nan], **fp16)
    assert outcome.code == ExitCode.NON_FINITE, outcome.log
    assert "3 times in a row, at step 6" in outcome.log
    assert all_finite(tmp_path)


def test_out_of_memory_names_the_settings_that_need_less(laboratory: Any, tmp_path: Path) -> None:
    outcome = laboratory.run(config_of(laboratory), tmp_path, inject=["limit_memory", 4, 1 << 30])
    assert outcome.code == ExitCode.OUT_OF_MEMORY, outcome.log
    assert "batch_size 2 and max_length 32" in outcome.log
    for setting in ("training.batch_size=1", "training.gradient_checkpointing=true", "optim.name=adamw8bit"):
        assert setting in outcome.log
    assert outcome.log.splitlines()[-1].startswith("  dataset.max_length=16")  # no traceback


def test_a_dead_data_worker_is_named_with_a_way_out(laboratory: Any, digest_of: Any, tmp_path: Path) -> None:
    config = config_of(laboratory)
    outcome = laboratory.run(config, tmp_path, inject=["kill_worker", 5], arguments=["dataset.num_workers=1"])
    assert outcome.code == ExitCode.USER_INPUT, outcome.log
    assert "a data worker process died" in outcome.log
    assert "num_workers: 0" in outcome.log
    assert "Traceback" not in outcome.log
    assert laboratory.run(config, tmp_path).code == 0
    ours, reference = digest_of(tmp_path / "run"), laboratory.reference(config)
    assert ours["final/model.safetensors"] == reference["final/model.safetensors"]
    assert ours["metrics.jsonl"] == reference["metrics.jsonl"]
