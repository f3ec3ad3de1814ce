import json
import math
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file

from dlm.errors import ModelError
from dlm_cli.main import cli

LONG = "model.layers.11.post_attention_layernorm_with_a_rather_long_name.weight"


@pytest.fixture
def checkpoints(tmp_path: Path) -> tuple[str, str]:
    tensors = {"equal": torch.ones(2), LONG: torch.zeros(3), "nan": torch.zeros(1)}
    save_file(tensors, tmp_path / "a.safetensors")
    changed = {**tensors, LONG: torch.tensor([0.0, 0.25, 0.0]), "nan": torch.tensor([math.nan])}
    save_file(changed, tmp_path / "b.safetensors")
    return str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["analyze", *arguments])


def test_equal_checkpoints_end_with_zero(checkpoints: tuple[str, str]) -> None:
    result = run(checkpoints[0], checkpoints[0])
    assert result.exit_code == 0
    assert "3 of 3 tensors are the same: the checkpoints are the same" in result.output
    assert LONG not in result.output
    assert LONG in run(checkpoints[0], checkpoints[0], "--all").output


def test_different_checkpoints_end_with_one_and_the_table_names_the_tensor(checkpoints: tuple[str, str]) -> None:
    result = run(*checkpoints)
    assert result.exit_code == 1
    (row,) = [line for line in result.output.splitlines() if LONG in line]
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        LONG, "values", "(3,)", "(3,)", "F32", "F32", "0.25", "1",
    ]  # fmt: skip
    assert "1 of 3 tensors are the same: the checkpoints differ" in result.output


def test_json_holds_every_tensor_and_is_strict_json(checkpoints: tuple[str, str]) -> None:
    result = run(*checkpoints, "--json")
    assert result.exit_code == 1

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    report = json.loads(result.output, parse_constant=refuse)
    assert report["same"] is False
    found = {tensor["name"]: tensor for tensor in report["tensors"]}
    assert found.keys() == {"equal", LONG, "nan"}
    assert (found[LONG]["status"], found[LONG]["max_abs_difference"], found[LONG]["shape_a"]) == ("values", 0.25, [3])
    assert found["nan"]["max_abs_difference"] == "nan"
    assert json.loads(run(checkpoints[0], checkpoints[0], "--json").output)["same"] is True


def test_what_cannot_be_read_ends_with_two(checkpoints: tuple[str, str], tmp_path: Path) -> None:
    result = run(checkpoints[0], str(tmp_path / "absent"))
    assert isinstance(result.exception, ModelError)
    assert result.exception.exit_code == 2
    assert run(checkpoints[0]).exit_code == 2
