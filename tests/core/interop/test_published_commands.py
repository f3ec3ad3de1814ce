"""A published model, once converted, is one of ours: every command takes it; unconverted, it is told what to do."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from dlm.errors import DlmError
from dlm_cli.main import cli

from .test_published import CASES, write


def command(*arguments: object) -> Result:
    result = CliRunner().invoke(cli, [str(each) for each in arguments])
    assert result.exit_code == 0, (arguments, result.output, result.exception)
    return result


def test_from_a_published_folder_to_a_fine_tuned_and_published_one(tmp_path: Path) -> None:
    write(tmp_path / "theirs", CASES["sdar"])
    converted, run = tmp_path / "converted", tmp_path / "run"
    command("convert", "--src", tmp_path / "theirs", "--dst", converted)
    rows = [{"prompt": f"w{i} w{i + 1}", "response": f"w{i + 2} w{i + 3} w{i + 4}"} for i in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "texts.txt").write_text("w1 w2 w3 w4 w5 w6 w7\n")
    blocks = {"enabled": True, "bias": "block_causal", "block_length": 4, "origin": "document"}
    settings: dict[str, Any] = {
        "model": {"name_or_path": str(converted)},
        "training": {"mode": "sft", "output_dir": str(run), "max_steps": 1, "batch_size": 2, "block_attention": blocks},
        "lora": {"r": 2, "alpha": 4.0},
        "optim": {"name": "adamw", "lr": 0.01},
        "dataset": {"name": str(tmp_path / "rows.jsonl"), "max_length": 16},
        "evaluation": {"do_eval_loss": False},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    command("run", tmp_path / "run.yaml")
    merged = tmp_path / "merged"
    command("merge", run / "final", "--out", merged)
    for folder in (converted, merged):
        told = command("generate", "--model", folder, "--prompt", "w1 w2", "--gen_length", 4, "--out", "-")
        assert json.loads(told.stdout.splitlines()[0])["prompt"] == "w1 w2"
    command("eval", "--model", merged, "--data", tmp_path / "texts.txt", "--max-draws", 8, "--precision", "50%")
    command("export", "--src", merged, "--dst", tmp_path / "sdar", "--format", "sdar")
    command("export", "--src", merged, "--dst", tmp_path / "hf", "--format", "hf")
    command("generate", "--model", tmp_path / "hf", "--prompt", "w1 w2", "--gen_length", 4)
    assert json.loads((tmp_path / "sdar" / "config.json").read_text())["block_size"] == 4


@pytest.mark.parametrize("name", ["a2d-llama mdlm", "Fast_dLLM_Qwen", "llada"])
def test_every_layout_is_sampled_and_published(name: str, tmp_path: Path) -> None:
    write(tmp_path / "theirs", CASES[name])
    options = {"layout": "--as", "block_length": "--block-length"}
    chosen = [text for key, value in CASES[name].options.items() for text in (options[key], value)]
    command("convert", "--src", tmp_path / "theirs", "--dst", tmp_path / "ours", *chosen)
    command("export", "--src", tmp_path / "ours", "--dst", tmp_path / "hf", "--format", "hf")
    texts = [
        command("generate", "--model", tmp_path / folder, "--prompt", "w1 w2", "--gen_length", 4).stdout
        for folder in ("ours", "hf")
    ]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("sdar", "`dlm convert` makes one of dlm of this folder"),
        ("a2d-qwen3 mdlm", "this folder, with --as a2d-mdlm or --as a2d-bd3lm"),
        ("llada", "`dlm convert` makes one of dlm of this folder"),
    ],
)
@pytest.mark.parametrize("verb", ["generate", "eval", "export", "run"])
def test_an_unconverted_folder_is_told_what_to_do(name: str, remedy: str, verb: str, tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    write(folder, CASES[name])
    (tmp_path / "rows.jsonl").write_text('{"prompt": "w1", "response": "w2"}\n' * 8)
    dataset = {"name": str(tmp_path / "rows.jsonl")}
    training = {"mode": "sft", "output_dir": str(tmp_path / "run"), "max_steps": 1, "batch_size": 2}
    settings = {"model": {"name_or_path": str(folder)}, "training": training, "dataset": dataset}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    arguments = {
        "generate": ["--model", folder, "--prompt", "w1"],
        "eval": ["--model", folder, "--data", tmp_path / "rows.jsonl"],
        "export": ["--src", folder, "--dst", tmp_path / "out", "--format", "hf"],
        "run": [tmp_path / "run.yaml"],
    }
    result = CliRunner().invoke(cli, [verb, *map(str, arguments[verb])])
    assert isinstance(result.exception, DlmError), result.output
    assert remedy in str(result.exception)
    assert "\n" not in str(result.exception)


def test_a_model_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    write(tmp_path / "theirs", CASES["sdar"], {**CASES["sdar"].config, "model_type": "sdar_moe"})
    result = CliRunner().invoke(cli, ["generate", "--model", str(tmp_path / "theirs"), "--prompt", "w1"])
    assert "a published diffusion model, but a mixture of experts; dlm reads sdar" in str(result.exception)
