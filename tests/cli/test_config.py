"""``dlm config show`` and ``dlm config schema`` in the terminal."""

import json
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner, Result

from dlm.config import RunFileError, load_config
from dlm.config.yaml12 import parse_yaml
from dlm_cli.commands.config import config

GOOD = "model: {name_or_path: x}\ntraining: {output_dir: a, max_steps: 3}\ndataset: {name: python-docs}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.yaml").write_text(GOOD)
    return tmp_path


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(config, arguments)


def test_what_is_shown_is_a_run_file_that_means_the_same(folder: Path) -> None:
    result = invoke("show", "good.yaml", "optim.lr=1e-3", "training.loss_impl=soft_ce")
    assert result.exit_code == 0
    (folder / "shown.yaml").write_text(result.stdout)
    assert "name: builtin:soft_ce" in result.stdout
    expected = load_config("good.yaml", ["optim.lr=1e-3", "training.loss_impl=soft_ce"])
    assert load_config("shown.yaml").config == expected.config
    assert invoke("show", "shown.yaml").stdout == result.stdout


def test_notes_do_not_spoil_what_is_shown(folder: Path) -> None:
    result = invoke("show", "good.yaml", "dataset.train_on=last_answer")
    assert "note: training.mode is pretrain" in result.stderr
    assert isinstance(parse_yaml(result.stdout).value, dict)


def test_a_wrong_file_is_refused_like_everywhere(folder: Path) -> None:
    result = invoke("show", "good.yaml", "optim.lrr=1")
    assert isinstance(result.exception, RunFileError)
    assert result.stdout == ""


@pytest.mark.parametrize("arguments", [("optim.lr=1",), ("good.yaml", "other.yaml")])
def test_exactly_one_file_is_shown(folder: Path, arguments: tuple[str, ...]) -> None:
    result = invoke("show", *arguments)
    assert result.exit_code == 2
    assert "name one run file" in result.stderr


def test_the_printed_schema_accepts_what_is_shown_and_refuses_misspelt_keys(folder: Path) -> None:
    schema = json.loads(invoke("schema").stdout)
    shown = parse_yaml(invoke("show", "good.yaml").stdout).value
    jsonschema.validate(shown, schema)
    shown["training"]["seeed"] = 3
    assert not jsonschema.Draft202012Validator(schema).is_valid(shown)
