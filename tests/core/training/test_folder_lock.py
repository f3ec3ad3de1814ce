"""The lock on an output folder: one holder, gone with its process, and no trace where nothing was written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dlm.errors import UserInputError
from dlm.training import output_folder
from dlm.training.output_folder import FolderLock, OutputFolder

HOLD = """
import sys
from pathlib import Path
from dlm.training.output_folder import FolderLock
FolderLock(Path(sys.argv[1])).take()
print("held", flush=True)
sys.stdin.read()
"""


def test_another_process_is_named_and_its_end_frees_the_folder(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserInputError, match=rf"is in use by process {holder.pid} on .*choose another folder"):
            FolderLock(tmp_path).take()
        holder.kill()
    lock = FolderLock(tmp_path)
    lock.take()
    lock.release()
    assert (tmp_path / ".lock").read_text() == ""


def test_a_file_that_was_deleted_meanwhile_is_not_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, locked = output_folder._lock, []

    def lock_what_its_holder_then_deletes(descriptor: int) -> None:
        original(descriptor)
        locked.append(os.fstat(descriptor).st_ino)
        if len(locked) == 1:
            keep_the_number = tmp_path / "hard-link"  # else the next file might get the same one
            os.link(tmp_path / ".lock", keep_the_number)
            (tmp_path / ".lock").unlink()

    monkeypatch.setattr(output_folder, "_lock", lock_what_its_holder_then_deletes)
    lock = FolderLock(tmp_path)
    lock.take()
    assert len(locked) == 2
    assert (tmp_path / ".lock").stat().st_ino == locked[1] != locked[0]
    lock.release()


def test_a_run_that_wrote_nothing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="refused"), OutputFolder(tmp_path / "runs" / "first"):
        raise ValueError("refused")
    assert list(tmp_path.iterdir()) == []

    (tmp_path / "runs").mkdir()
    with OutputFolder(tmp_path / "runs" / "first"):
        pass
    assert list(tmp_path.rglob("*")) == [tmp_path / "runs"]


def test_a_folder_that_is_gone_does_not_hide_what_ended_the_run(tmp_path: Path) -> None:
    def run() -> None:
        with OutputFolder(tmp_path / "first"):
            (tmp_path / "first").rename(tmp_path / "second")
            raise ValueError("the reason")

    with pytest.raises(ValueError, match="the reason"):
        run()


def test_a_run_that_wrote_something_keeps_its_folder(tmp_path: Path) -> None:
    with OutputFolder(tmp_path / "runs" / "first") as folder:
        folder.append("metrics.jsonl", {"step": 1})
    assert (tmp_path / "runs" / "first" / "metrics.jsonl").read_text() == '{"step": 1}\n'
