"""Rows that a reward cannot judge, rewards that fail, and code that runs only with leave: one line each, exit 2."""

import json
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from click.testing import CliRunner

import dlm
from dlm.config.rl_section import WeightedReward
from dlm.data.conversations.prompt_rows import Prompt
from dlm.data.source_records import Origin
from dlm.errors import DataError, DlmError, ExitCode, UserInputError
from dlm.training.answers import Answer, Judge
from dlm_builtin_plugins.rewards.form import EndsReward, LengthReward, PatternReward
from dlm_cli.commands.run import run as run_command
from dlm_cli.main import main
from dlm_plugins import Reward, RewardRequest


def write(rl_file: Path, *changes: dict[str, object]) -> None:
    """The rows of the run, the first ones changed."""
    data = rl_file.with_name("sums.jsonl")
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    rows[: len(changes)] = [{"prompt": "1+1=", **change} for change in changes]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))


def refusal(rl_file: Path, *overrides: str) -> DlmError:
    with pytest.raises(DlmError) as caught:
        dlm.run(rl_file, ["training.max_steps=1", *overrides])
    return caught.value


def test_a_row_without_the_column_of_a_reward_is_refused_before_anything_is_sampled(rl_file: Path) -> None:
    write(rl_file, {"solution": "2"}, {"answer": None})
    error = refusal(rl_file)
    assert error.exit_code == ExitCode.USER_INPUT
    lines = str(error).splitlines()
    assert lines[0] == "2 rows cannot be used:"
    assert lines[1].endswith(
        "sums.jsonl:1: column 'answer', which ExactReward reads, is missing (columns: prompt, solution)"
    )
    assert lines[2].endswith(
        "sums.jsonl:2: column 'answer', which ExactReward reads, is empty (columns: prompt, answer)"
    )
    assert not (rl_file.parent / "run" / "final").exists()


def test_rows_without_the_column_may_be_passed_over(rl_file: Path) -> None:
    write(rl_file, {"solution": "2"})
    dlm.run(rl_file, ["training.max_steps=1", "dataset.on_bad_row=skip"])
    (bad,) = (rl_file.parent / "run" / "bad_rows.jsonl").read_text().splitlines()
    assert "column 'answer', which ExactReward reads, is missing" in json.loads(bad)["reason"]


def test_a_row_that_a_reward_cannot_judge_is_named(rl_file: Path) -> None:
    write(rl_file, *[{"answer": "two"}] * 45)
    error = refusal(rl_file, "rl.rewards=[number]")
    assert error.exit_code == ExitCode.USER_INPUT
    assert "sums.jsonl:" in str(error)
    assert "NumberReward cannot judge the answer: no number to compare with in 'two'" in str(error)
    assert len(str(error).splitlines()) == 1


@attrs.frozen(kw_only=True)
class Undecided:
    """Not a number where the answer is long."""

    def score(self, request: RewardRequest) -> torch.Tensor:
        return torch.tensor([float("nan") if len(item.answer) > 1 else 0.0 for item in request.items])


@attrs.frozen(kw_only=True)
class Fails:
    """Looks for a third word."""

    def score(self, request: RewardRequest) -> torch.Tensor:
        return torch.tensor([float(len(item.answer.split()[2])) for item in request.items])


def answer_to(row: int, line: int, text: str) -> Answer:
    return Answer(
        prompt=Prompt(text="?", ids=torch.zeros(1).int().numpy(), values={}, origin=Origin("sums.jsonl", row, line)),
        text=text,
        ids=torch.zeros(3, dtype=torch.long),
        committed_step=torch.zeros(3, dtype=torch.long),
        num_tokens=2,
        ended=True,
    )


def test_an_answer_that_earns_all_there_is_is_right_whatever_the_weights() -> None:
    weights = (9.7, 9.9, 8.3, -1.0)  # of float32 they add up to less
    rewards = [EndsReward(), EndsReward(), PatternReward(), LengthReward(target=0, limit=1)]
    weighted = [WeightedReward(reward=reward, weight=weight) for reward, weight in zip(rewards, weights, strict=True)]
    judge = Judge(rewards=weighted, overlong_is_worthless=False)
    worth, _ = judge([answer_to(0, 1, "all"), answer_to(1, 2, " ")])
    assert judge.are_right(worth).tolist() == [True, False]


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (Undecided(), "rl.rewards: Undecided says nan of an answer to sums.jsonl:8, not a number"),
        (Fails(), "sums.jsonl:7: rl.rewards: Fails cannot judge the answer: list index out of range"),
    ],
)
def test_a_reward_that_fails_is_named_with_the_row(reward: Reward, message: str) -> None:
    answers = [answer_to(6, 7, "2"), answer_to(7, 8, "two words")]
    judge = Judge(rewards=[WeightedReward(reward=reward)], overlong_is_worthless=False)
    with pytest.raises(DataError) as caught:
        judge(answers)
    assert str(caught.value) == message


WAYWARD = """
import attrs, torch
from dlm_plugins import hookimpl

@attrs.frozen(kw_only=True)
class FailsReward:
    '''Looks for what is not in the row.'''
    def score(self, request):
        return torch.tensor([float(item.columns["solution"]) for item in request.items])

@attrs.frozen(kw_only=True)
class UndecidedReward:
    '''Not a number.'''
    def score(self, request):
        return torch.full((len(request.items),), float("nan"))

@hookimpl
def dlm_rewards():
    return {"fails": FailsReward, "undecided": UndecidedReward}
"""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fails", "{folder}/sums.jsonl:10: rl.rewards: FailsReward cannot judge the answer: 'solution'"),
        ("undecided", "rl.rewards: UndecidedReward says nan of an answer to {folder}/sums.jsonl:10, not a number"),
    ],
)
def test_a_run_whose_reward_fails_ends_with_one_line(
    rl_file: Path,
    site_packages: Any,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    name: str,
    message: str,
) -> None:
    site_packages.install("dlm-wayward", {"wayward.py": WAYWARD})
    monkeypatch.setattr(sys, "argv", ["dlm", "run", str(rl_file), f"rl.rewards=[{name}]"])
    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code == ExitCode.USER_INPUT
    said = capfd.readouterr()
    assert said.err == f"dlm: {message.format(folder=rl_file.parent)}\n"
    assert "Traceback" not in said.out
    assert not (rl_file.parent / "run" / "final").exists()


CODE = "rl.rewards=[{name: tests, seconds: 20, memory_mb: 128}]"


def test_code_is_run_only_with_leave(rl_file: Path) -> None:
    write(rl_file, *[{"tests": ["assert f(7) == 49"]}] * 45)
    with pytest.raises(UserInputError) as caught:
        dlm.run(rl_file, [CODE])
    assert str(caught.value).startswith("rl.rewards: tests runs code that the model writes")
    refused = CliRunner().invoke(run_command, [str(rl_file), CODE])
    assert "--allow-code-execution" in str(refused.exception)
    assert not (rl_file.parent / "run").exists()
    settings = ["training.max_steps=1", "training.batch_size=1", "rl.group_size=2", CODE]
    assert dlm.run(rl_file, settings, allow_code_execution=True).final_step == 1


def test_such_a_reward_needs_no_leave_where_nothing_is_judged(rl_file: Path) -> None:
    with pytest.raises(DlmError) as caught:
        dlm.run(rl_file, [CODE, "training.mode=pretrain", "dataset.name=./nowhere.txt", "training.loss_impl=elbo"])
    assert "runs code" not in str(caught.value)
