"""The manifest of a checkpoint: name, size and SHA-256 of every file, and its own SHA-256; written last."""

import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import attrs

from dlm.errors import CheckpointError

MANIFEST = "manifest.json"
FORMAT_VERSION = 1
_OWN_DIGEST = "sha256"
_MOST_READERS = 8
"""Threads that verify the files of one checkpoint: SHA-256 of one file keeps one core busy."""

Entry = dict[str, object]
"""Size and SHA-256 of a file."""


class _HashingFile(io.FileIO):
    """A file for writing from its beginning to its end, hashed on the way."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "wb")
        self._sha256, self._size = hashlib.sha256(), 0

    def write(self, data: Any, /) -> int:
        """Write as much as the system takes at once: a buffer around this file asks again for the rest."""
        view = memoryview(data).cast("B")
        written = super().write(view)
        self._sha256.update(view[:written])
        self._size += written
        return written

    def entry(self) -> Entry:
        return {"size": self._size, "sha256": self._sha256.hexdigest()}


@attrs.define
class NewFolder:
    """A folder that is being written. What is written through it is hashed on the way, and not read again."""

    path: Path
    entries: dict[str, Entry] = attrs.field(factory=dict)
    """Size and SHA-256 by name, of files that were written through this object, or by another process."""

    @contextmanager
    def create(self, name: str) -> Iterator[BinaryIO]:
        """Open a file that is written once, from its beginning to its end.

        Raises:
            OSError: The disk is full or not writable.
        """
        raw = _HashingFile(self.path / name)
        with io.BufferedWriter(raw) as file:
            yield file
        self.entries[name] = raw.entry()


def write_manifest(folder: Path, known: Mapping[str, Entry] | None = None) -> None:
    """List the files of ``folder`` in its manifest.

    Args:
        folder: what is described.
        known: files whose size and SHA-256 are known; the others are read.
    """
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MANIFEST]
    names = {path.relative_to(folder).as_posix(): path for path in files}
    entries = {name: (known or {}).get(name) or _entry(path) for name, path in names.items()}
    content = {"format_version": FORMAT_VERSION, "files": entries}
    content[_OWN_DIGEST] = digest(content)
    (folder / MANIFEST).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def verify(folder: Path) -> None:
    """Compare a checkpoint with its manifest.

    Raises:
        CheckpointError: The manifest is missing, damaged or of a newer format, or a file is missing, was changed or
            does not belong to the checkpoint. The message names the folder and the reason.
    """
    files = _listed(folder)
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {MANIFEST}
    for name in sorted(set(files) | present):
        if name not in present:
            raise CheckpointError(f"{folder}: {name} is missing")
        if name not in files:
            raise CheckpointError(f"{folder}: {name} is not listed in {MANIFEST}")

    def check(name: str) -> None:
        try:
            entry = _entry(folder / name)
        except OSError as error:
            raise CheckpointError(f"{folder}: {name} cannot be read ({error.strerror})") from None
        if entry != files[name]:
            raise CheckpointError(f"{folder}: {name} differs from what was saved (size or SHA-256)")

    with ThreadPoolExecutor(min(_MOST_READERS, os.cpu_count() or 1)) as pool:
        for _ in pool.map(check, sorted(files)):
            pass


def _listed(folder: Path) -> dict[str, object]:
    """The entries of the manifest, which is as it was written."""
    try:
        content = dict(json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
        written = content.pop(_OWN_DIGEST, None)
        # Manifests had no digest at first: then their keys are all that can be checked.
        is_whole = content.keys() == {"format_version", "files"} if written is None else written == digest(content)
        if not is_whole:
            raise ValueError("it is not as it was written")
        check_format(folder, content["format_version"])
        return dict(content["files"])
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: no {MANIFEST}, so the checkpoint was never finished") from None
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise CheckpointError(f"{folder}: {MANIFEST} is damaged ({error})") from None


def digest(content: Mapping[str, object]) -> str:
    """SHA-256 of what a manifest says, without the digest itself."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def check_format(folder: Path, version: object) -> None:
    """Refuse a format this version of dlm does not know."""
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{folder}: checkpoint format {version!r}, this version of dlm reads format {FORMAT_VERSION}; "
            "a newer dlm is needed to resume it"
        )


def _entry(path: Path) -> dict[str, object]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"size": path.stat().st_size, "sha256": digest}
