"""Files and folders that options name to be written (``--out``, ``--trace``): refused before anything is computed."""

from pathlib import Path

import click


def file_to_write(option: str, written: str | None) -> Path | None:
    """The path given to an option, refused if no file can be written there."""
    from dlm.user_paths import user_path

    path = None if written is None else user_path(written)
    if path is not None and (path.is_dir() or not path.resolve().parent.is_dir()):
        what = "a folder, not a file" if path.is_dir() else "the folder does not exist"
        raise click.UsageError(f"{option} {written}: {what}")
    return path


def folder_to_write(option: str, written: str | None) -> Path | None:
    """The same for a folder, which is made where it does not exist."""
    from dlm.user_paths import user_path

    path = None if written is None else user_path(written)
    if path is not None:
        there = next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())
        if not there.is_dir():
            raise click.UsageError(f"{option} {written}: {there} is a file, not a folder")
    return path
