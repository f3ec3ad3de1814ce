"""``evaluation.at_end``: a run ends with the report of its final model, once, and no failure there ends it."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import dlm
from dlm.errors import DataError
from dlm_cli.main import cli

RUN_FILE = """\
model:
  config: {hidden_size: 16, intermediate_size: 16, num_hidden_layers: 1, num_attention_heads: 2,
           num_key_value_heads: 1, head_dim: 8, max_position_embeddings: 64, initializer_range: 0.3}
  tokenizer: {train: {vocab_size: 261}}
training: {mode: pretrain, output_dir: OUT/run, max_steps: 2, batch_size: 4,
           checkpoint: {every_steps: 2, keep_last: 1, resume: latest}}
dataset: {name: OUT/texts.txt, max_length: 16}
evaluation:
  fraction: 0.2
  at_end: {questions: OUT/questions.jsonl, draws: 4, max_draws: 8, seed: 3}
sampling: {gen_length: 4, steps: 2}
"""
QUESTIONS = [{"question": "The sky is", "choices": ["blue", "xq"], "answer": 0}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("at_end")
    (folder / "texts.txt").write_text("".join(f"The cat of number {number} is here.\n" for number in range(24)))
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    (folder / "run.yaml").write_text(RUN_FILE.replace("OUT", str(folder)))
    return folder


@pytest.fixture(scope="module")
def run(folder: Path, request: pytest.FixtureRequest) -> Path:
    return dlm.run(folder / "run.yaml").output_dir


def test_the_report_is_that_of_dlm_eval(run: Path, folder: Path, tmp_path: Path) -> None:
    report = json.loads((run / "report.json").read_text())
    options = ["--questions", str(folder / "questions.jsonl"), "--draws", "4", "--max-draws", "8", "--seed", "3"]
    result = CliRunner().invoke(cli, ["eval", "--model", str(run / "final"), *options, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    (own,), (other,) = report["models"], json.loads((tmp_path / "report.json").read_text())["models"]
    for each in (own, other):
        del each["sampling"]["tokens_per_second"]
    assert own == other
    assert report["seed"] == 3
    page = (run / "report.html").read_text()
    assert "Samples" in page
    assert "nats a token" in page


def test_the_same_command_again_evaluates_only_what_has_changed(
    run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / "report.json").stat().st_mtime_ns
    dlm.run(folder / "run.yaml")
    assert f"evaluated before, with the same weights and settings: {run / 'report.html'}" in capsys.readouterr().out
    assert (run / "report.json").stat().st_mtime_ns == before
    dlm.run(folder / "run.yaml", ["evaluation.at_end.seed=4"])
    assert "evaluated: " in capsys.readouterr().out
    assert json.loads((run / "report.json").read_text())["seed"] == 4
    (folder / "questions.jsonl").write_text(json.dumps(QUESTIONS[0] | {"answer": 1}) + "\n")
    dlm.run(folder / "run.yaml", ["evaluation.at_end.seed=4"])
    assert "evaluated: " in capsys.readouterr().out
    # The page that is made without evaluating keeps what was found.
    result = CliRunner().invoke(cli, ["report", str(run), "--out", str(tmp_path / "page.html")])
    assert result.exit_code == 0, result.output
    assert "nats a token" in (tmp_path / "page.html").read_text()


def test_what_fails_there_fails_no_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "other"
    changes = [f"training.output_dir={out}", f"evaluation.at_end={{data: {folder}/texts.txt, window: 1000}}"]
    assert dlm.run(folder / "run.yaml", changes).final_step == 2
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("evaluation.at_end")]
    assert line.startswith(
        "evaluation.at_end failed (window is 1000; it must lie between 2 and the model's context, 64)"
    )
    assert line.endswith(f"dlm eval --model {out / 'final'} evaluates it")
    assert (out / "final" / "model.safetensors").is_file()
    assert not (out / "report.json").exists()


def test_it_evaluates_where_it_has_trained(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is told to keep to the CPU does not take an accelerator for its end."""
    elsewhere = {True: torch.device("meta"), False: None}
    monkeypatch.setattr(
        torch.accelerator, "current_accelerator", lambda check_available=False: elsewhere[check_available]
    )
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    dlm.run(folder / "run.yaml", [f"training.output_dir={tmp_path}"])
    assert "evaluated: " in capsys.readouterr().out


@pytest.mark.parametrize("key", ["questions", "data"])
def test_a_file_that_is_missing_is_found_before_training(folder: Path, key: str) -> None:
    out = folder / f"none-{key}"
    changes = [f"training.output_dir={out}", f"evaluation.at_end={{{key}: {folder}/missing.jsonl}}"]
    with pytest.raises(DataError, match=r"missing\.jsonl"):
        dlm.run(folder / "run.yaml", changes)
    assert not out.exists()
    result = CliRunner().invoke(cli, ["run", str(folder / "run.yaml"), *changes, "--dry-run"])
    assert isinstance(result.exception, DataError)


def test_a_new_run_sets_the_report_aside(run: Path, folder: Path) -> None:
    dlm.run(folder / "run.yaml", ["training.checkpoint.resume=none", "evaluation.at_end=null"])
    assert (run / "previous-1" / "report.json").is_file()
    assert not (run / "report.json").exists()
