"""A run of two epochs, resumed at every step and in the middle of every step."""

import signal
from pathlib import Path
from typing import Any

import pytest

EPOCHS = {
    "training": {
        "max_steps": None,
        "num_epochs": 2,
        "batch_size": 5,
        "gradient_accumulation_steps": 2,
        "checkpoint": {"every_steps": 1, "keep_last": 2, "resume": "latest"},
    },
    "dataset": {"max_length": 120},
}
FIRST_CALL_OF_A_STEP, SECOND_CALL_OF_A_STEP = 1, 2


@pytest.fixture(scope="module")
def two_epochs(laboratory: Any) -> Path:
    config: Path = laboratory.config("two-epochs", EPOCHS)
    return config


@pytest.mark.parametrize("call", [FIRST_CALL_OF_A_STEP, SECOND_CALL_OF_A_STEP])
def test_resumed_at_every_step_one_after_the_other(
    laboratory: Any, two_epochs: Path, digest_of: Any, count: Any, tmp_path: Path, call: int
) -> None:
    reference = laboratory.reference(two_epochs)
    num_resumed = 0
    # A run dies a step or two further on, and the next one starts where the last save was whole by then.
    while (outcome := laboratory.run(two_epochs, tmp_path, inject=["die_in_backward", 2 + call])).code != 0:
        assert outcome.code == -signal.SIGKILL, outcome.log
        num_resumed += 1
    assert "continuing from" in outcome.log
    if call == FIRST_CALL_OF_A_STEP:
        # No run gets further than one step, so none passes over the boundary. With the second call one may: the last
        # step of an epoch has a single micro-batch here.
        assert "epoch 1, batch 0" in outcome.log
    assert digest_of(tmp_path / "run") == reference
    where = "between two steps" if call == FIRST_CALL_OF_A_STEP else "between two micro-batches"
    count(f"resumed at every step of two epochs, killed {where}", f"{num_resumed} resumptions in a row, 0 different")
    assert num_resumed >= 6


def test_killed_before_the_first_save_and_started_again_after_the_end(
    laboratory: Any, two_epochs: Path, digest_of: Any, count: Any, tmp_path: Path
) -> None:
    reference = laboratory.reference(two_epochs)
    outcome = laboratory.run(two_epochs, tmp_path, inject=["die_in_backward", 1])
    assert outcome.code == -signal.SIGKILL
    assert (tmp_path / "run" / "metrics.jsonl").stat().st_size > 0  # the evaluation of step 0, to be cut off
    assert laboratory.run(two_epochs, tmp_path).code == 0
    assert digest_of(tmp_path / "run") == reference
    outcome = laboratory.run(two_epochs, tmp_path)
    assert outcome.code == 0, outcome.log
    assert digest_of(tmp_path / "run") == reference
    count("killed before the first save; started again after the end", "0 different")


def test_a_stream_resumed_at_every_step(laboratory: Any, digest_of: Any, count: Any, tmp_path: Path) -> None:
    changes = {
        "training": {"max_steps": 10, "batch_size": 10, "checkpoint": {"every_steps": 1, "resume": "latest"}},
        "dataset": {"max_length": 120, "streaming": True, "shuffle_buffer": 7, "num_workers": 1},
        "evaluation": {"do_eval_loss": False},
    }
    config = laboratory.config("stream", changes)
    reference = laboratory.reference(config)
    num_resumed = 0
    while (outcome := laboratory.run(config, tmp_path, inject=["die_in_backward", 4])).code != 0:
        assert outcome.code == -signal.SIGKILL, outcome.log
        num_resumed += 1
    assert "epoch 2" in outcome.log
    assert digest_of(tmp_path / "run") == reference
    count("a stream resumed at every step of three epochs", f"{num_resumed} resumptions in a row, 0 different")
