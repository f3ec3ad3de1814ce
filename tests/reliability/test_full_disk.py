"""A disk that is full at each write of a save."""

import json
from pathlib import Path
from typing import Any

from dlm.errors import ExitCode
from dlm.training.checkpoints.checkpoint_store import CheckpointStore

SAVE = 2
"""The save that meets the full disk: there is an older checkpoint then."""


def trained(folder: Path) -> dict[str, bytes]:
    """What has to come out whatever happened to a checkpoint on the way."""
    run = folder / "run"
    names = ("metrics.jsonl", "samples.jsonl", "final/model.safetensors", "checkpoints/step-12/optimizer.pt")
    return {name: (run / name).read_bytes() for name in names}


def left_behind(folder: Path) -> list[Path]:
    return list((folder / "run").rglob(".dlm-*"))


def test_a_save_that_meets_a_full_disk_is_survived(
    laboratory: Any, in_parallel: Any, count: Any, tmp_path: Path
) -> None:
    config = laboratory.config("pretrain-adamw")
    record, whole = tmp_path / "writes.json", tmp_path / "whole"
    outcome = laboratory.run(config, whole, inject=["fill_disk_at_write", SAVE, 0, str(record)])
    assert outcome.code == 0, outcome.log
    num_writes = json.loads(record.read_text(encoding="utf-8"))
    sizes = {file.stat().st_size for file in (whole / "run" / "checkpoints" / "step-12").iterdir()}
    limits = sorted({0, *(size // 2 for size in sizes), *(size - 1 for size in sizes)})

    def trial(injection: list[object]) -> str:
        folder = tmp_path / "-".join(map(str, injection))
        outcome = laboratory.run(config, folder, inject=injection)
        survived = "could not save a checkpoint" in outcome.log and "older ones are intact" in outcome.log
        if outcome.code != 0 or not survived:
            return f"{injection}: exit code {outcome.code}: {outcome.log}"
        if left_behind(folder):
            return f"{injection}: left {left_behind(folder)}"
        return "" if trained(folder) == trained(whole) else f"{injection}: the result differs"

    cases: list[list[object]] = [["fill_disk_at_write", SAVE, number] for number in range(1, num_writes + 1)]
    cases += [["limit_file_size", SAVE, limit] for limit in limits]
    failures = [failure for failure in in_parallel(trial, cases) if failure]
    count("disk full at each write of a save", f"{len(cases)} writes, training ended in all but {len(failures)}")
    assert not failures, "\n".join(failures)
    assert num_writes >= 10


def test_older_checkpoints_stay_whole_while_the_disk_is_full(laboratory: Any, tmp_path: Path) -> None:
    outcome = laboratory.run(laboratory.config("pretrain-adamw"), tmp_path, inject=["report_full_disk", 3, 99])
    assert outcome.code == ExitCode.FINAL_STATE_NOT_SAVED
    assert outcome.log.count("could not save a checkpoint") == 3
    assert "bytes, 0 are free" in outcome.log
    assert "Traceback" not in outcome.log
    newest, rejected = CheckpointStore(tmp_path / "run" / "checkpoints", keep_last=2).latest()
    assert newest is not None
    assert newest.name == "step-4"
    assert not rejected
    # Room again: the same command goes on.
    outcome = laboratory.run(laboratory.config("pretrain-adamw"), tmp_path)
    assert outcome.code == 0, outcome.log


def test_a_log_that_cannot_be_written_ends_the_run_and_costs_nothing(
    laboratory: Any, digest_of: Any, tmp_path: Path
) -> None:
    config = laboratory.config("pretrain-adamw")
    outcome = laboratory.run(config, tmp_path, inject=["refuse_appends", 8])
    assert outcome.code == ExitCode.FINAL_STATE_NOT_SAVED
    assert "cannot write" in outcome.log
    assert "Traceback" not in outcome.log
    assert laboratory.run(config, tmp_path).code == 0
    assert digest_of(tmp_path / "run") == laboratory.reference(config)
