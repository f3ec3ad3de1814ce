"""Every path that a user writes, in a run file or on a command line, may begin at home or in a variable."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from dlm_cli.main import cli

RUN_FILE = """\
model: {name_or_path: ~/qwen3, tokenizer: $PLACE/qwen3}
training: {output_dir: ~/out, max_steps: 2, batch_size: 2, checkpoint: {every_steps: 1}}
dataset: {name: $PLACE/texts.jsonl, max_length: 16}
optim: {lr_scheduler: constant}
lora: {r: 2}
evaluation: {do_eval_loss: false}
"""


@pytest.fixture
def home(tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with a model, texts and a run file; the current folder is another one."""
    home, here = tmp_path / "home", tmp_path / "here"
    here.mkdir()
    shutil.copytree(tiny.checkpoint, home / "qwen3")
    shutil.copy(tiny.texts, home)
    (home / "run.yaml").write_text(RUN_FILE)
    (home / "prompts.txt").write_text("The first\n")
    (home / "sampling.yaml").write_text("{gen_length: 4, steps: 2, block_length: 4}")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PLACE", str(home))
    monkeypatch.chdir(here)
    return home


def dlm(*arguments: str) -> str:
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, (arguments, result.output, result.exception)
    return result.stdout


def test_no_command_makes_or_misses_a_folder_called_tilde(home: Path) -> None:
    dlm("run", "~/run.yaml")
    dlm("run", "$PLACE/run.yaml", "training.checkpoint.resume=~/out/checkpoints/step-1", "training.output_dir=~/again")
    base = json.loads((home / "out/final/adapter_config.json").read_text())["base_model_name_or_path"]
    assert base == str(home / "qwen3")  # where peft looks for it
    dlm("validate", "~/run.yaml")
    dlm("config", "show", "~/run.yaml")
    dlm("data", "preview", "~/run.yaml", "dataset.name=~/*.jsonl")
    dlm("merge", "~/out/final", "--out", "~/merged", "--base", "$PLACE/qwen3")
    dlm("convert", "--src", "~/qwen3", "--dst", "${PLACE}/converted")
    dlm("analyze", "~/merged", "$PLACE/merged")
    read = ["--prompt-file", "~/prompts.txt", "--config", "~/sampling.yaml"]
    dlm("generate", "--model", "~/merged", *read, "--out", "~/o.jsonl")
    dlm("generate", "--model", "~/merged", *read, "--trace", "~/t.html")
    assert {path.name for path in home.iterdir()} >= {"out", "again", "merged", "converted", "o.jsonl", "t.html"}
    dlm("plugins", "new", "loss", "other_loss", "--out", "~/dlm-other")
    assert (home / "dlm-other").is_dir()
    dlm("plugins", "check", "~/dlm-other")
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("key", ["training.output_dir", "dataset.name", "model.name_or_path"])
def test_variables_that_are_not_set_are_named(home: Path, key: str) -> None:
    result = CliRunner().invoke(cli, ["run", "~/run.yaml", f"{key}=$NOT_SET_AT_ALL/x"])
    assert "the environment variable NOT_SET_AT_ALL is not set" in str(result.exception)
    assert list(Path().iterdir()) == []
