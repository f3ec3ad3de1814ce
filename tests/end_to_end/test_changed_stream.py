"""Data that changed between stop and resume are refused, streamed or not."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dlm_cli.main import main

RUN_FILE = """\
model:
  config: {hidden_size: 32, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2,
           num_key_value_heads: 2, head_dim: 16, max_position_embeddings: 64}
  tokenizer: tokenizer
training:
  output_dir: out
  max_steps: 2
  batch_size: 2
  checkpoint: {resume: latest}
dataset: {name: ./data, max_length: 16, streaming: true}
optim: {lr_scheduler: constant}
evaluation: {do_eval_loss: false}
"""
LONGER = "training.max_steps=3"


def edit(folder: Path) -> None:
    """What ``sed -i 1,3d`` does."""
    path = folder / "data" / "a.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[3:]))


def same_size(folder: Path) -> None:
    path = folder / "data" / "a.jsonl"
    path.write_text(path.read_text().replace("number 7", "number 8", 1))


def append(folder: Path) -> None:
    with (folder / "data" / "a.jsonl").open("a") as file:
        file.write('{"text": "one more"}\n')


CHANGES: dict[str, Callable[[Path], object]] = {
    "lines deleted": edit,
    "a letter changed": same_size,
    "a line added": append,
    "a file removed": lambda folder: (folder / "data" / "b.jsonl").unlink(),
    "a file added": lambda folder: shutil.copy(folder / "data" / "b.jsonl", folder / "data" / "c.jsonl"),
    "all files removed": lambda folder: shutil.rmtree(folder / "data"),
}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, tiny) -> Path:
    """A folder with a stream, and a run on it that stopped after two steps."""
    folder = tmp_path_factory.mktemp("stream")
    (folder / "data").mkdir()
    for name in ("a", "b"):
        lines = [json.dumps({"text": f"Document {name} number {number} about rivers."}) for number in range(40)]
        (folder / "data" / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "run.yaml").write_text(RUN_FILE)
    shutil.copytree(tiny.checkpoint, folder / "tokenizer")
    with pytest.MonkeyPatch.context() as patch:
        assert run(folder, patch) == 0
    return folder


def run(folder: Path, patch: pytest.MonkeyPatch, *overrides: str) -> object:
    """The exit code of ``dlm run``."""
    patch.chdir(folder)
    patch.setattr(sys, "argv", ["dlm", "run", "run.yaml", *overrides])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code or 0


@pytest.mark.parametrize("change", list(CHANGES))
def test_changed_data_are_refused(stopped, tmp_path, monkeypatch, capsys, change) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(stopped, folder)
    CHANGES[change](folder)
    assert run(folder, monkeypatch, LONGER) == 2
    err = capsys.readouterr().err
    assert "no such file or folder" in err if change == "all files removed" else "data_fingerprint" in err
    assert not (folder / "out" / "checkpoints" / "step-3").exists()


def test_the_same_data_elsewhere_go_on(stopped, tmp_path, monkeypatch) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(stopped, folder)
    assert run(folder, monkeypatch, LONGER) == 0
    assert (folder / "out" / "checkpoints" / "step-3").exists()
