"""From a run file to batches: what is evaluated may hold less, and other faults, than what is trained on."""

import json

import pytest
import torch
import yaml

from dlm.config import load_config
from dlm.training.assembly import build_accelerator
from dlm.training.processes import OneProcess
from dlm.training.run_data import prepare_data

ROWS = [{"prompt": f"question {number}", "response": f"answer {number}"} for number in range(4)]


@pytest.fixture
def prepared(tokenizer, tmp_path, monkeypatch):
    """The data of a run whose splits have different rows."""
    monkeypatch.setenv("DLM_CACHE", "off")
    files = {"train": [{**row, "score": 0.5} for row in ROWS], "test": [{"prompt": "nobody answers"}, *ROWS]}
    for split, lines in files.items():
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run_file = tmp_path / "run.yaml"
    settings = {
        "model": {"config": {"hidden_size": 16}, "tokenizer": {"train": {}}},
        "training": {"mode": "sft", "output_dir": str(tmp_path / "out"), "max_steps": 1},
        "dataset": {"name": str(tmp_path), "max_length": 32, "on_bad_row": "skip"},
        "evaluation": {"split": "test"},
    }
    run_file.write_text(yaml.safe_dump(settings))
    config = load_config(run_file).config
    return prepare_data(config, tokenizer, build_accelerator(config))


def test_held_out_rows_need_not_have_every_numeric_column(prepared):
    (training,) = next(prepared.loader.steps()).micro_batches
    assert set(training.columns) == {"score"}
    (held_out,) = prepared.evaluation
    assert held_out.columns == {}
    assert int((held_out.row_index >= 0).sum()) == len(ROWS)


def test_held_out_rows_that_are_passed_over_are_listed(prepared, tmp_path):
    (bad,) = prepared.unused
    assert str(bad.origin) == f"{tmp_path / 'test.jsonl'}:1"


@pytest.mark.parametrize(("setting", "device", "expected"), [("auto", "cpu", 0), ("auto", "cuda", 1), (0, "cuda", 0)])
def test_a_stream_is_tokenized_ahead_beside_a_gpu(tokenizer, tmp_path, setting, device, expected):
    (tmp_path / "a.txt").write_text("some text")
    run_file = tmp_path / "run.yaml"
    settings = {
        "model": {"config": {"hidden_size": 16}, "tokenizer": {"train": {}}},
        "training": {"output_dir": str(tmp_path / "out"), "max_steps": 1},
        "dataset": {"name": str(tmp_path / "a.txt"), "streaming": True, "num_workers": setting},
        "evaluation": {"do_eval_loss": False},
    }
    run_file.write_text(yaml.safe_dump(settings))
    place = OneProcess(device=torch.device(device))
    assert prepare_data(load_config(run_file).config, tokenizer, place).loader.num_workers == expected
