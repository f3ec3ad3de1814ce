"""Publishing and rotating checkpoints, without a run around it."""

import json
import os
from pathlib import Path

import pytest

from dlm.errors import CheckpointError
from dlm.training.checkpoints.checkpoint_store import CheckpointStore
from dlm.training.checkpoints.disk import check_room, disk_error
from dlm.training.checkpoints.manifest import MANIFEST, NewFolder, digest, verify
from dlm.training.checkpoints.publishing import publish, sweep


def write_files(folder: NewFolder) -> None:
    with folder.create("weights") as file:
        file.write(b"12")
        file.write(b"34")
    (folder.path / "inner").mkdir()
    (folder.path / "inner" / "state").write_bytes(b"56")


def saved(folder: Path, *steps: int, keep_last: int = 2, pinned: Path | None = None) -> CheckpointStore:
    store = CheckpointStore(folder, keep_last, pinned)
    for step in steps:
        store.save(step, write_files, num_bytes=6)
    return store


def test_everything_is_flushed_before_the_folder_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def recorded_fsync(descriptor: int) -> None:
        events.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def recorded_rename(self: Path, target: Path) -> Path:
        events.append("renamed")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(Path, "rename", recorded_rename)
    publish(tmp_path / "step-1", write_files)
    before, after = events[: events.index("renamed")], events[events.index("renamed") + 1 :]
    assert {"weights", "state", "inner", MANIFEST} < set(before)
    assert before[-1].endswith("step-1")  # the folder itself, after all it holds
    assert after == [tmp_path.name]


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: NewFolder) -> None:
        write_files(folder)
        raise ValueError("no checkpoint this time")

    with pytest.raises(ValueError, match="this time"):
        publish(tmp_path / "step-1", fail)
    assert list(tmp_path.iterdir()) == []


def test_replacing_keeps_the_old_one_where_the_new_one_cannot_be_written(tmp_path: Path) -> None:
    publish(tmp_path / "final", write_files)

    def fail(folder: NewFolder) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        publish(tmp_path / "final", fail, replace=True)
    verify(tmp_path / "final")
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


def test_rotation_keeps_the_newest_the_best_and_the_pinned(tmp_path: Path) -> None:
    store = saved(tmp_path, 2, 4, 6, 8, 10, keep_last=2, pinned=tmp_path / "step-4")
    store.point_at_best(6, 1.5)
    store.rotate()
    assert store.steps() == [4, 6, 8, 10]
    assert store.best_step() == 6


def test_the_pointer_to_the_best_never_points_at_nothing(tmp_path: Path) -> None:
    store = saved(tmp_path, 2)
    store.point_at_best(2, 1.5)
    assert json.loads((tmp_path / "best").read_text(encoding="utf-8")) == {"step": 2, "loss": 1.5}
    store.point_at_best(7, 1.0)  # there is no such checkpoint
    assert store.best_step() is None
    store.point_at_best(None, None)
    assert not (tmp_path / "best").exists()


def test_a_step_is_saved_once(tmp_path: Path) -> None:
    store = saved(tmp_path, 2)
    written = (tmp_path / "step-2" / "weights").stat().st_mtime_ns
    store.save(2, write_files, num_bytes=6)
    assert (tmp_path / "step-2" / "weights").stat().st_mtime_ns == written


def test_the_newest_that_verifies_is_found_and_the_others_get_a_reason(tmp_path: Path) -> None:
    store = saved(tmp_path, 2, 9, 10, 100)
    (tmp_path / "step-100" / MANIFEST).unlink()
    (tmp_path / "step-10" / "weights").write_bytes(b"1235")
    (tmp_path / ".dlm-write-step-200").mkdir()
    (tmp_path / "step-x").mkdir()
    newest, reasons = store.latest()
    assert newest == tmp_path / "step-9"
    assert len(reasons) == 2
    assert "never finished" in reasons[0]
    assert "weights differs from what was saved" in reasons[1]


def test_a_newer_format_is_refused_by_name(tmp_path: Path) -> None:
    saved(tmp_path, 2)
    manifest = tmp_path / "step-2" / MANIFEST
    content = json.loads(manifest.read_text(encoding="utf-8"))
    newer = {"files": content["files"], "format_version": 7}
    manifest.write_text(json.dumps({**newer, "sha256": digest(newer)}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="checkpoint format 7"):
        verify(tmp_path / "step-2")


def test_sweeping_removes_the_hidden_and_nothing_else(tmp_path: Path) -> None:
    saved(tmp_path, 2)
    (tmp_path / ".dlm-write-step-4").mkdir()
    (tmp_path / ".dlm-write-step-4" / "weights").write_bytes(b"1")
    (tmp_path / ".dlm-write-best").write_text("torn")
    (tmp_path / ".hidden").write_text("the user's own")
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "step-2"]


def test_no_room_is_found_before_anything_is_written(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep_last=2)
    with pytest.raises(OSError, match="a checkpoint needs") as refusal:
        store.save(2, write_files, num_bytes=1 << 60)
    assert refusal.value.errno == 28
    assert list(tmp_path.iterdir()) == []
    check_room(tmp_path, 1)


def test_the_system_s_error_is_found_behind_what_libraries_raise() -> None:
    class SafetensorError(Exception):
        pass

    rust = disk_error(SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"))
    assert rust is not None
    assert rust.errno == 28
    try:
        try:
            raise OSError(27, "File too large")
        finally:
            raise RuntimeError("[enforce fail at inline_container.cc] . unexpected pos")
    except RuntimeError as error:
        found = disk_error(error)
    assert found is not None
    assert found.errno == 27
    assert disk_error(ValueError("a bug")) is None
