"""``dlm validate`` in the terminal."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dlm_cli.commands.validate import validate
from dlm_cli.main import cli

GOOD = "model: {name_or_path: x}\ntraining: {output_dir: a, max_steps: 3}\ndataset: {name: python-docs}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.yaml").write_text(GOOD)
    (tmp_path / "bad.yaml").write_text(GOOD + "optim: {lrr: 1}\nlogging: {every_steps: 0}\n")
    return tmp_path


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(validate, arguments)


def test_a_good_file_is_ok(folder: Path) -> None:
    result = invoke("good.yaml")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "good.yaml: ok\n", "")


def test_every_problem_of_every_file_gets_a_line_and_good_files_are_still_ok(folder: Path) -> None:
    result = invoke("bad.yaml", "good.yaml", "gone.yaml")
    assert (result.exit_code, result.stdout) == (2, "good.yaml: ok\n")
    assert result.stderr.splitlines() == [
        "bad.yaml:4: optim.lrr: unknown key; did you mean 'lr'?",
        "bad.yaml:5: logging.every_steps: must be > 0: 0",
        "gone.yaml: no such file",
    ]


def test_overrides_apply_to_every_file(folder: Path) -> None:
    (folder / "second.yaml").write_text(GOOD)
    result = invoke("good.yaml", "training.seed=x", "second.yaml")
    assert result.exit_code == 2
    assert (
        result.stderr.splitlines() == ["<command line>: training.seed: must be an integer, not 'x', which is text"] * 2
    )
    assert invoke("good.yaml", "training.seed=3", "training.loss_impl=soft_ce").exit_code == 0


def test_a_file_may_look_like_an_override(folder: Path) -> None:
    (folder / "a=b.yaml").write_text(GOOD)
    assert invoke("a=b.yaml").stdout == "a=b.yaml: ok\n"


def test_notes_are_told(folder: Path) -> None:
    result = invoke("good.yaml", "dataset.train_on=last_answer")
    assert result.exit_code == 0
    assert result.stderr == "good.yaml: note: training.mode is pretrain; not used: dataset.train_on\n"


def test_overrides_without_a_file_are_a_usage_error(folder: Path) -> None:
    result = invoke("training.seed=3")
    assert result.exit_code == 2
    assert "name at least one run file" in result.stderr


def test_plugins_can_be_switched_off_and_a_name_that_is_none_is_refused(folder: Path) -> None:
    assert invoke("good.yaml", "--no-plugin", "all", "--strict-plugins").exit_code == 0
    result = invoke("good.yaml", "--no-plugin", "nobody")
    assert result.exit_code == 2
    assert "'nobody'" in result.stderr


def test_nothing_is_written(folder: Path) -> None:
    before = sorted(path.name for path in folder.rglob("*"))
    invoke("good.yaml", "bad.yaml")
    assert sorted(path.name for path in folder.rglob("*")) == before


def test_the_command_is_in_the_table_with_examples(folder: Path) -> None:
    result = CliRunner().invoke(cli, ["validate", "--help"])
    assert result.exit_code == 0
    assert "Examples:" in result.output
    assert "--no-plugin" in result.output
