"""From a run file to batches: what is evaluated may hold less than what is trained on."""

import json

import yaml

from dlm.config import load_config
from dlm.training.assembly import build_accelerator
from dlm.training.run_data import prepare_data


def test_held_out_rows_need_not_have_every_numeric_column(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("DLM_CACHE", "off")
    rows = [{"prompt": f"question {number}", "response": f"answer {number}", "shared": number} for number in range(4)]
    files = {"train": [{**row, "score": 0.5} for row in rows], "test": [*rows, {"prompt": "?", "response": "!"}]}
    for split, lines in files.items():
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run_file = tmp_path / "run.yaml"
    settings = {
        "model": {"config": {"hidden_size": 16}, "tokenizer": {"train": {}}},
        "training": {"mode": "sft", "output_dir": str(tmp_path / "out"), "max_steps": 1},
        "dataset": {"name": str(tmp_path), "max_length": 32},
        "evaluation": {"split": "test"},
    }
    run_file.write_text(yaml.safe_dump(settings))
    config = load_config(run_file).config
    data = prepare_data(config, tokenizer, build_accelerator(config))
    (training,) = next(data.loader.steps()).micro_batches
    assert set(training.columns) == {"score", "shared"}
    (held_out,) = data.evaluation
    assert held_out.columns == {}
    assert len(held_out.row_index) >= 5
