"""Write a model folder whole or not at all; refuse one that exists."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from dlm.errors import ModelError
from dlm.model.checkpoint_sources import STATE_FILE, one_line


def check_destination(destination: Path) -> None:
    """Refuse to write over something, or into a checkpoint, which no run could go on from then.

    Raises:
        ModelError: ``destination`` is a file, a symbolic link, the current folder, a mount point, a folder that is not
            empty, or inside of a checkpoint.
    """
    for parent in destination.absolute().parents:
        if (parent / STATE_FILE).is_file():
            raise ModelError(
                f"{destination}: inside of the checkpoint {parent}, which has to stay as it was saved; name another"
            )
    if destination.is_symlink():
        raise ModelError(f"{destination}: a symbolic link, which a new folder cannot replace; name where it points to")
    if destination.is_dir():
        if any(destination.iterdir()):
            raise ModelError(f"{destination}: the folder is not empty; name another, or empty it first")
        if destination.resolve() == Path.cwd():
            raise ModelError(f"{destination}: the current folder cannot be replaced; name a new one inside it")
        if os.path.ismount(destination):
            raise ModelError(f"{destination}: a mount point cannot be replaced; name a new one inside it")
    elif destination.exists():
        raise ModelError(f"{destination}: a file of that name exists")


@contextmanager
def published(destination: Path) -> Iterator[Path]:
    """A folder beside ``destination`` that takes its name when everything went well, and is gone otherwise.

    Raises:
        ModelError: It cannot be written.
    """
    with scratch_beside(destination) as folder:
        yield folder
        try:
            if destination.is_dir():
                destination.rmdir()
            folder.rename(destination)
        except OSError as error:
            raise ModelError(f"{destination}: cannot be written: {one_line(error)}") from error


@contextmanager
def scratch_beside(destination: Path) -> Iterator[Path]:
    """A new hidden folder on the disk of ``destination``, gone in the end.

    Raises:
        ModelError: It cannot be written, or a file elsewhere that is wanted for it cannot be read.
    """
    folder = destination.with_name(f".{destination.name}.{secrets.token_hex(4)}.partial")
    try:
        folder.mkdir(parents=True)
        yield folder
    except (OSError, SafetensorError) as error:
        if source := _unread(error, folder):
            raise ModelError(source) from error
        raise ModelError(f"{destination}: cannot be written: {one_line(error)}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unread(error: Exception, folder: Path) -> str | None:
    """What is said of a file outside ``folder`` that could not be read; None: the error is one of writing."""
    if not isinstance(error, OSError) or error.filename is None or error.filename2 is not None:
        return None
    # The folder's parents may be what cannot be made; a second name is that of a copy that could not be written.
    path = Path(os.fsdecode(error.filename)).absolute()
    if folder.absolute().is_relative_to(path) or path.is_relative_to(folder.absolute()):
        return None
    return f"{path}: cannot be read: {error.strerror}"
