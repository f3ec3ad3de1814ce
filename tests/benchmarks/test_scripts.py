"""What the scripts say of themselves: the list that names them, and when two runs count as the same."""

import importlib
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def sampling(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield importlib.import_module("sampling")
    sys.modules.pop("sampling", None)


def test_the_engine_and_the_loop_by_hand_take_the_same_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    overhead = importlib.import_module("engine_overhead")
    turns, loss = overhead.measure(5)
    assert (len(turns.engine_seconds), len(turns.hand_losses)) == (4, 5)
    assert abs(loss / statistics.mean(turns.hand_losses) - 1) <= overhead.MAX_LOSS_DIFFERENCE


def test_the_list_names_every_script() -> None:
    text = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    scripts = [file.name for file in BENCHMARKS.glob("*.py") if not file.name.startswith("gpu_")]
    assert len(scripts) > 10
    assert [name for name in scripts if f"python benchmarks/{name}" not in text] == []


@pytest.mark.parametrize(
    ("gaps", "is_same"),
    [
        ([1.0, 1e-9, 1.0, 1.0], True),  # nearly equal before they part: the order may have been another one
        ([1.0, 1.0, 1e-9, 1.0], True),
        ([1.0, 1.0, 1.0, 1e-9], False),  # only after they have parted
    ],
)
def test_two_runs_may_part_only_where_two_choices_are_nearly_equal(
    sampling: Any, gaps: list[float], is_same: bool
) -> None:
    ours, theirs = torch.tensor([[9, 1, 2, 3, 4]]), torch.tensor([[9, 1, 2, 8, 4]])
    taken = list(zip([4, 1, 3, 2], gaps, strict=True))
    assert sampling.is_same(ours, theirs, taken) is is_same
    assert sampling.is_same(theirs, theirs, taken)


def test_a_row_that_is_missed_does_not_end_the_others(sampling: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run: list[str] = []
    monkeypatch.setattr(sys, "argv", ["sampling.py"])
    monkeypatch.setattr(sampling, "SIZES", {**sampling.SIZES, "hidden_size": 32, "num_hidden_layers": 1})
    monkeypatch.setattr(sampling, "VOCABULARY_SIZE", 64)
    monkeypatch.setattr(sampling, "MASK_ID", 63)
    monkeypatch.setattr(sampling, "run_case", lambda model, case, rounds: run.append(case.name))
    monkeypatch.setattr(sampling, "run_batch", lambda model, rounds: run.append("together"))
    assert sampling.main() == 1
    assert run == [*(case.name for case in sampling.CASES), "together"]
