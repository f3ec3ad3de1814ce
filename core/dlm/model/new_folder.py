"""Write a model folder whole or not at all; refuse one that exists."""

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from dlm.errors import ModelError
from dlm.model.checkpoint_sources import one_line


def check_destination(destination: Path) -> None:
    """Refuse to write over something.

    Raises:
        ModelError: ``destination`` is a file, a symbolic link, the current folder, or a folder that is not empty.
    """
    if destination.is_symlink():
        raise ModelError(f"{destination}: a symbolic link, which a new folder cannot replace; name where it points to")
    if destination.is_dir():
        if any(destination.iterdir()):
            raise ModelError(f"{destination}: the folder is not empty; name another, or empty it first")
        if destination.resolve() == Path.cwd():
            raise ModelError(f"{destination}: the current folder cannot be replaced; name a new one inside it")
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
        ModelError: It cannot be written.
    """
    folder = destination.with_name(f".{destination.name}.{secrets.token_hex(4)}.partial")
    try:
        folder.mkdir(parents=True)
        yield folder
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{destination}: cannot be written: {one_line(error)}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
