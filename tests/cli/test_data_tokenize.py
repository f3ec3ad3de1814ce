"""``dlm data tokenize`` and the runs that follow it; four ranks, each row once."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

import dlm
from dlm.config import load_config
from dlm.data import tokenization
from dlm.data.tokenizer_training import train_tokenizer
from dlm.errors import DlmError
from dlm_cli.main import cli

TEXTS = [f"text number {number} of many, and what it says " * (number % 3 + 1) for number in range(50)]


@pytest.fixture
def run_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DLM_CACHE", str(tmp_path / "cache"))
    rows = [json.dumps({"text": text}) + "\n" for text in TEXTS]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text("".join(rows), encoding="utf-8")
    (tmp_path / "data" / "test.jsonl").write_text("".join(rows[:9]), encoding="utf-8")
    train_tokenizer(TEXTS, vocab_size=290).save_pretrained(tmp_path / "tokenizer")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = {
        "model": {
            "config": {**sizes, "num_key_value_heads": 1, "head_dim": 8},
            "tokenizer": str(tmp_path / "tokenizer"),
        },
        "training": {"output_dir": str(tmp_path / "out"), "max_steps": 2, "batch_size": 2},
        "dataset": {"name": str(tmp_path / "data"), "max_length": 32},
        "evaluation": {"split": "test"},
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def tokenize(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["data", "tokenize", *arguments])


def test_run_after_it_tokenizes_nothing_and_trains_the_same(
    run_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, prepared = tmp_path / "plain", tmp_path / "prepared"
    dlm.run(load_config(run_file, [f"training.output_dir={plain}"]))
    result = tokenize(str(run_file), "--out", str(tmp_path / "tokens"))
    assert result.exit_code == 0, result.output
    assert "data: 50 documents" in result.output
    assert result.output.count(f"tokens: kept in {tmp_path / 'tokens' / 'tokens'}") == 2
    assert tokenize(str(run_file), "--out", str(tmp_path / "tokens")).output.count("nothing is tokenized") == 2
    monkeypatch.setenv("DLM_CACHE", str(tmp_path / "tokens"))
    monkeypatch.setattr(tokenization, "encode_texts", lambda *_: pytest.fail("tokenized"))
    capsys.readouterr()
    dlm.run(load_config(run_file, [f"training.output_dir={prepared}"]))
    assert capsys.readouterr().out.count("nothing is tokenized") == 2
    assert (prepared / "metrics.jsonl").read_bytes() == (plain / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "{folder}/run.yaml"], "tokens: not kept ({folder}/run.yaml: Not a directory)"),
        (["dataset.streaming=true"], "dataset.streaming: a stream is tokenized as it is read; set it to false"),
        (["evaluation.split=dev"], "no files of the split 'dev'; splits here: test, train"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(run_file: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    result = tokenize(str(run_file), *(each.format(folder=tmp_path) for each in arguments))
    error = result.exception
    assert isinstance(error, (DlmError, SystemExit))
    assert message.format(folder=tmp_path) in f"{error}{result.output}"


@pytest.mark.parametrize("mode", ["pretrain", "sft"])
def test_mixture_is_resumed_exactly(run_file: Path, tmp_path: Path, mode: str) -> None:
    for name in ("one", "other"):
        rows = [{"prompt": f"{name} {k}", "response": TEXTS[k], "text": f"{name} {TEXTS[k]}"} for k in range(30)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    mixture = [{"name": str(tmp_path / "one.jsonl"), "weight": 3}, {"name": str(tmp_path / "other.jsonl"), "weight": 1}]
    settings = [f"training.mode={mode}", "dataset.name=null", f"dataset.mixture={json.dumps(mixture)}"]
    settings += ["evaluation.split=null", "training.max_steps=4", "training.checkpoint.every_steps=2"]
    settings += ["training.checkpoint.resume=latest", "logging.every_steps=1", "dataset.max_length=64"]
    dlm.run(load_config(run_file, settings))
    out = tmp_path / "out"
    whole = (out / "metrics.jsonl").read_bytes()
    shutil.rmtree(out / "checkpoints" / "step-4")
    shutil.rmtree(out / "final")
    assert dlm.run(load_config(run_file, settings)).final_step == 4
    assert (out / "metrics.jsonl").read_bytes() == whole
    assert whole.count(b"\n") >= 4


@pytest.mark.parametrize("setting", ["off", "afile"])
def test_where_nothing_can_be_kept_nothing_is_tokenized(
    run_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    (tmp_path / "afile").touch()
    monkeypatch.setenv("DLM_CACHE", setting if setting == "off" else str(tmp_path / setting))
    monkeypatch.setattr(tokenization, "encode_texts", lambda *_: pytest.fail("tokenized"))
    error = tokenize(str(run_file)).exception
    assert isinstance(error, DlmError)
    assert str(error).endswith("with --out")


def test_prompts_of_rollouts_are_not_kept_and_that_is_said(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text((Path(__file__).parents[2] / "configs" / "rl.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    error = tokenize(str(path), "--out", str(tmp_path / "tokens")).exception
    assert isinstance(error, DlmError)
    assert str(error).startswith("training.mode: rl")
