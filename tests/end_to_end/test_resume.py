"""A run that stops and goes on ends as one that never stopped."""

from pathlib import Path

import pytest
import yaml

import dlm
from dlm.errors import UserInputError

PROMISED = ("model.safetensors", "optimizer.pt", "scheduler.pt")


def write_config(path: Path, texts: Path, output: Path) -> Path:
    """A small run with dropout, accumulation and samples."""
    config = {
        "model": {
            "config": {
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "head_dim": 8,
                "attention_dropout": 0.1,
            },
            "tokenizer": {"train": {"vocab_size": 300}},
        },
        "training": {
            "output_dir": str(output),
            "max_steps": 6,
            "batch_size": 4,
            "gradient_accumulation_steps": 2,
            "checkpoint": {"every_steps": 2, "resume": "latest"},
        },
        "dataset": {"name": str(texts), "max_length": 32},
        "evaluation": {"eval_every_steps": 3, "sample_prompts": ["The "]},
        "sampling": {"gen_length": 8, "steps": 8, "block_length": 8},
        "logging": {"every_steps": 2},
    }
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def test_stopping_and_going_on_changes_nothing(tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = write_config(tmp_path / "whole.yaml", tiny.texts, tmp_path / "whole")
    dlm.run(whole)
    assert "nothing is left to train" not in capsys.readouterr().out

    parts = write_config(tmp_path / "parts.yaml", tiny.texts, tmp_path / "parts")
    constant = ["optim.lr_scheduler=cosine"]
    with pytest.raises(KeyboardInterrupt):
        stop_at_step(parts, constant, step=3)
    dlm.run(parts, constant)
    assert "nothing is left to train" not in capsys.readouterr().out
    dlm.run(parts, constant)
    assert "all 6 steps are done, and nothing is left to train" in capsys.readouterr().out

    for name in PROMISED:
        first, second = (tmp_path / run / "checkpoints" / "step-6" / name for run in ("whole", "parts"))
        assert first.read_bytes() == second.read_bytes(), name
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes(), name


def stop_at_step(config: Path, overrides: list[str], *, step: int) -> None:
    """Run, and let the process be interrupted the hard way in the middle of a step."""
    from dlm.training.step import TrainingStep

    original = TrainingStep.__call__

    def interrupted(self, step_batch, number, meanwhile):
        if number == step:
            raise KeyboardInterrupt
        return original(self, step_batch, number, meanwhile)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingStep, "__call__", interrupted)
        dlm.run(config, overrides)


def test_a_folder_with_checkpoints_is_not_touched_without_a_word(tiny, tmp_path: Path) -> None:
    output = tmp_path / "out"
    config = write_config(tmp_path / "run.yaml", tiny.texts, output)
    dlm.run(config, ["training.max_steps=2"])
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}

    with pytest.raises(UserInputError, match=r"already holds checkpoints.*resume=latest.*resume=none"):
        dlm.run(config, ["training.checkpoint.resume=null"])

    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before


def test_another_batch_size_is_refused_and_accepted_by_name(tiny, tmp_path: Path) -> None:
    config = write_config(tmp_path / "run.yaml", tiny.texts, tmp_path / "out")
    dlm.run(config, ["training.max_steps=2", "optim.lr_scheduler=constant"])
    longer = ["training.max_steps=4", "optim.lr_scheduler=constant", "training.batch_size=2"]

    with pytest.raises(UserInputError, match=r"training.batch_size: 4 in the checkpoint, 2 now"):
        dlm.run(config, longer)

    assert dlm.run(config, longer, allow_change=["training.batch_size"]).final_step == 4
