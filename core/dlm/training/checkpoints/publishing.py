"""Atomic writes: a folder is written beside its place, flushed (fsync), and renamed into it."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from dlm.errors import DlmError
from dlm.training.checkpoints.disk import disk_error
from dlm.training.checkpoints.manifest import NewFolder, write_manifest

_HIDDEN = ".dlm-"


def reached(point: str) -> None:
    """Called at every named point of a save. It does nothing; the reliability tests die here."""


def publish(target: Path, write: Callable[[NewFolder], None], *, replace: bool = False) -> None:
    """Create the folder ``target`` with what ``write`` writes and a manifest: whole, or not at all.

    Args:
        target: the folder to create.
        write: writes the files into an empty folder.
        replace: whether ``target`` may exist and is to be replaced.

    Raises:
        OSError: The disk is full or not writable. Nothing is left behind, and ``target`` is as it was.
    """
    hidden, replaced = hidden_sibling(target, "write"), hidden_sibling(target, "replaced")
    try:
        remove(hidden)
        hidden.mkdir(parents=True)
        reached("folder created")
        folder = NewFolder(hidden)
        _write(write, folder)
        reached("files written")
        write_manifest(hidden, folder.entries)
        reached("manifest written")
        for path in (*sorted(hidden.rglob("*")), hidden):
            flush(path)
        reached("flushed")
        if replace and target.exists():
            remove(replaced)
            target.rename(replaced)
            reached("old one renamed")
        hidden.rename(target)
        reached("renamed")
        flush(target.parent)
        reached("published")
    except BaseException:
        remove(hidden)
        if replaced.exists() and not target.exists():
            replaced.rename(target)
        raise
    remove(replaced)


def _write(write: Callable[[NewFolder], None], folder: NewFolder) -> None:
    try:
        write(folder)
    except DlmError:
        raise
    except Exception as error:
        if (cause := disk_error(error)) is None:
            raise
        raise cause from error


def write_file(path: Path, text: str) -> None:
    """Create or replace a small file: whole, or not at all.

    Raises:
        OSError: The disk is full or not writable; an older version is as it was.
    """
    hidden = hidden_sibling(path, "write")
    try:
        hidden.write_text(text, encoding="utf-8")
        flush(hidden)
        reached(f"{path.name} written")
        hidden.replace(path)
        flush(path.parent)
        reached(f"{path.name} published")
    except BaseException:
        remove(hidden)
        raise


def discard(folder: Path) -> None:
    """Delete a folder. It loses its name first, so that a half-deleted one is never taken for whole.

    Raises:
        OSError: It cannot be renamed, and is as it was.
    """
    hidden = hidden_sibling(folder, "delete")
    remove(hidden)
    folder.rename(hidden)
    reached("renamed for deletion")
    remove(hidden)
    reached("deleted")


def hidden_sibling(path: Path, purpose: str) -> Path:
    """A name beside ``path`` that no reader looks at."""
    return path.with_name(f"{_HIDDEN}{purpose}-{path.name}")


def sweep(parent: Path) -> None:
    """Delete what an interrupted process left hidden in ``parent``. The caller holds the output folder."""
    for path in sorted(parent.glob(f"{_HIDDEN}*-*")):
        remove(path)
        reached("swept")


def remove(path: Path) -> None:
    """Delete a file or folder as far as possible; what cannot be deleted stays, and is hidden."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        try:
            path.unlink(missing_ok=True)
        except OSError:
            return


def flush(path: Path) -> None:
    """Make a file or a folder durable."""
    if path.is_dir() and os.name == "nt":
        return  # Windows has no way to flush a folder
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
