"""How a folder is published: written beside its place, flushed, and renamed into it."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import psutil

from dlm.training.checkpoints.manifest import write_manifest

_HIDDEN = ".dlm-"


def reached(point: str) -> None:
    """Called at every named point of a save. It does nothing; the reliability tests die here."""


def publish(target: Path, write: Callable[[Path], None], *, replace: bool = False) -> None:
    """Create the folder ``target`` with what ``write`` writes and a manifest: whole, or not at all.

    Args:
        target: the folder to create.
        write: writes the files into an empty folder.
        replace: whether ``target`` may exist and is to be replaced.

    Raises:
        OSError: The disk is full or not writable. Nothing is left behind, and ``target`` is as it was.
    """
    hidden = hidden_sibling(target, "write")
    try:
        hidden.mkdir(parents=True)
        reached("folder created")
        write(hidden)
        reached("files written")
        write_manifest(hidden)
        reached("manifest written")
        for path in (*sorted(hidden.rglob("*")), hidden):
            flush(path)
        reached("flushed")
        if replace and target.exists():
            discard(target)
        hidden.rename(target)
        reached("renamed")
        flush(target.parent)
        reached("published")
    except BaseException:
        shutil.rmtree(hidden, ignore_errors=True)
        raise


def discard(folder: Path) -> None:
    """Delete a folder. It loses its name first, so that a half-deleted one is never taken for whole."""
    hidden = hidden_sibling(folder, "delete")
    folder.rename(hidden)
    reached("renamed for deletion")
    shutil.rmtree(hidden, ignore_errors=True)
    reached("deleted")


def hidden_sibling(folder: Path, purpose: str) -> Path:
    """A name beside ``folder`` that no reader looks at, and that tells which process it belongs to."""
    return folder.with_name(f"{_HIDDEN}{purpose}-{os.getpid()}-{folder.name}")


def sweep(parent: Path) -> None:
    """Delete what processes that are no longer alive left hidden in ``parent``."""
    for path in parent.glob(f"{_HIDDEN}*-*-*"):
        pid = path.name.removeprefix(_HIDDEN).split("-")[1]
        if pid.isdigit() and not (int(pid) != os.getpid() and psutil.pid_exists(int(pid))):
            shutil.rmtree(path, ignore_errors=True)
            reached("swept")


def flush(path: Path) -> None:
    """Make a file or a folder durable."""
    if path.is_dir() and os.name == "nt":
        return  # Windows has no way to flush a folder
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
