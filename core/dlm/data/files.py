"""Which local files (paths, folders, patterns, splits) a data set's name stands for, and which are left out."""

import glob
import importlib.util
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs

from dlm.data.compression import COMPRESSIONS, uncompressed_name
from dlm.data.readers import READERS, format_of
from dlm.errors import DataError
from dlm.user_paths import user_path
from dlm_plugins.suggestions import did_you_mean

PACKAGE_PREFIX = "pkg://"
_GLOB_CHARACTERS = "*?["
_ALLOWED = ", ".join(suffix.removeprefix(".") for suffix in READERS)
_ALLOWED_ALSO = f"{_ALLOWED}, also with {', '.join(COMPRESSIONS)} behind"
_SPLITS = ("train", "validation", "valid", "val", "dev", "test", "eval")
_NUM_NAMED = 4


@attrs.frozen
class FoundFiles:
    """The files that are read, in a fixed order."""

    files: tuple[Path, ...]
    left_out: str = ""
    """How many of a folder are read, and which are not; empty where all are."""


@attrs.frozen
class _Entry:
    """A file of a folder, and why it is not read, if it is not."""

    path: Path
    reason: str | None = None


def is_local(name: str) -> bool:
    """Whether the name means files here: it looks like a path, or something of that name exists."""
    looks_like_path = name.startswith(("./", "../", "/", "~", "$", ".\\")) or name in {".", ".."}
    has_known_suffix = format_of(Path(name)) in READERS
    return looks_like_path or has_known_suffix or _is_pattern(name) or os.path.lexists(name)


def path_of(name: str) -> Path:
    """The path that a name means, whether something is there or not.

    Raises:
        DataError: ``pkg://`` of a package that is not there.
        UserInputError: a path that means nothing.
    """
    return inside_package(name) if name.startswith(PACKAGE_PREFIX) else user_path(name)


def find_files(name: str, split: str) -> FoundFiles:
    """The files of a path, folder, glob or ``pkg://package/path``, in a fixed order.

    A folder is searched with its subfolders. A folder or file in it whose whole name is that of a split
    (``test/a.txt``, ``test.jsonl``, ``test-00000-of-00002.jsonl``, ``test.en.txt``) belongs to it; without one called
    ``train``, all that belong to none are the split ``train``.

    Raises:
        DataError: nothing there (with the nearest names), an unknown format, several formats, or no such split.
    """
    path = path_of(name)
    if path.is_dir():
        return _in_folder(path, name, split)
    is_pattern = _is_pattern(name) and not path.exists()
    if split != "train" and (is_pattern or path.exists()):
        what = "a pattern" if is_pattern else "a single file"
        raise DataError(f"{name}: {what} has only the split 'train', not {split!r}")
    if is_pattern:
        files = sorted(Path(match) for match in glob.glob(str(path), recursive=True))
        files = [file for file in files if file.is_file()]
        if not files:
            raise DataError(f"{name}: no file matches this pattern")
        return FoundFiles(_of_one_format(files, name))
    if not path.exists():
        raise DataError(f"{name}: no such file or folder{_nearest(path)}")
    return FoundFiles(_of_one_format([path], name))


def inside_package(name: str) -> Path:
    """The path that ``pkg://package/path`` stands for, whether something is there or not.

    Raises:
        DataError: no such package.
    """
    package, _, inside = name.removeprefix(PACKAGE_PREFIX).partition("/")
    try:
        # Found without running the package's code, which a data file has no use for.
        spec = importlib.util.find_spec(package) if package else None
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        install = package.partition(".")[0].replace("_", "-") or "PACKAGE"
        raise DataError(f"{name}: there is no package {package!r} here; try: pip install {install}")
    candidates = [Path(location) / inside for location in spec.submodule_search_locations]
    return next((path for path in candidates if path.exists()), candidates[0])


def _is_pattern(name: str) -> bool:
    return any(character in name for character in _GLOB_CHARACTERS)


def _in_folder(folder: Path, name: str, split: str) -> FoundFiles:
    entries = sorted(_entries(folder, name), key=lambda entry: entry.path)
    readable = [entry.path for entry in entries if entry.reason is None]
    if not readable:
        raise DataError(f"{name}: no file in a known format in this folder; known are {_ALLOWED_ALSO}")
    split_of = {path: _split_of(path.relative_to(folder), split) for path in readable}
    files = _of_one_format(_of_split(split_of, name, split), name, folder)
    others = [entry for entry in entries if entry.path not in set(files)]
    return FoundFiles(files, _left_out(name, folder, len(files), others, split_of))


def _entries(folder: Path, name: str) -> Iterator[_Entry]:
    """Every file below the folder, through links too."""

    def refuse(error: OSError) -> None:
        raise DataError(f"{name}: cannot be read: {error.strerror}: {error.filename}")

    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        real = os.path.realpath(place)
        if real in seen:  # a link back up
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        hidden = any(part.startswith(".") for part in Path(place).relative_to(folder).parts)
        for file_name in names:
            path = Path(place) / file_name
            if hidden or file_name.startswith("."):
                yield _Entry(path, "hidden")
            elif not path.is_file():
                yield _Entry(path, "no file behind it")
            else:
                yield _Entry(path, None if format_of(path) in READERS else "format not known")


def _of_split(split_of: dict[Path, str | None], name: str, split: str) -> list[Path]:
    chosen = [path for path, found in split_of.items() if found == split.lower()]
    if not chosen and split == "train":
        chosen = [path for path, found in split_of.items() if found is None]
    if chosen:
        return chosen
    named = sorted({found for found in split_of.values() if found is not None})
    raise DataError(f"{name}: no files of the split {split!r}; splits here: {', '.join(named) or 'train'}")


def _split_of(inside: Path, wanted: str) -> str | None:
    """The split that a path inside a folder names: a whole part of it, but for the number of a shard.

    Dots divide the name of the file into such parts too: ``train.en.txt``, ``ptb.test.txt``.
    """
    file = uncompressed_name(inside).with_suffix("")
    for part in (*file.parts, *file.name.split(".")):
        whole = re.sub(r"[-_.]\d+([-_.]of[-_.]\d+)?$", "", part.lower())
        if whole in (wanted.lower(), *_SPLITS):
            return whole
    return None


def _left_out(
    name: str, folder: Path, num_read: int, others: Sequence[_Entry], split_of: dict[Path, str | None]
) -> str:
    if not others:
        return ""
    reasons: dict[str, list[str]] = {}
    for entry in others:
        found = split_of.get(entry.path)
        reason = entry.reason or (f"split {found}" if found else "in no split")
        reasons.setdefault(reason, []).append(str(entry.path.relative_to(folder)))
    hidden = len(reasons.pop("hidden", ()))
    parts = [f"{_listing(names)} ({reason})" for reason, names in reasons.items()]
    parts += [f"{hidden} hidden"] if hidden else []
    files = "1 file" if num_read == 1 else f"{num_read:,} files"
    return f"{name}: {files} read, {len(others):,} left out: {', '.join(parts)}"


def _listing(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NUM_NAMED:,} more" if len(names) > _NUM_NAMED else ""
    return f"{', '.join(names[:_NUM_NAMED])}{more}"


def _of_one_format(files: Sequence[Path], name: str, folder: Path | None = None) -> tuple[Path, ...]:
    counts = Counter(format_of(path) for path in files)
    unknown = [suffix or "no suffix" for suffix in counts if suffix not in READERS]
    if unknown:
        raise DataError(f"{name}: unknown format ({', '.join(unknown)}); known are {_ALLOWED_ALSO}")
    if len(counts) > 1:
        found = ", ".join(f"{number} {suffix}" for suffix, number in counts.items())
        pattern = f"; choose with a pattern such as {_pattern(files, name, folder)}" if folder else ""
        raise DataError(f"{name}: files of several formats ({found}){pattern}")
    return tuple(files)


def _pattern(files: Sequence[Path], name: str, folder: Path) -> str:
    """One that matches the files of the commonest ending, wherever they are."""
    endings = Counter(path.name.removeprefix(_stem(path)) for path in files)
    ending = max(endings, key=lambda each: endings[each])
    inside = any(path.parent != folder for path in files if path.name.endswith(ending))
    # Signs in the folder's own name are no pattern.
    return f"{glob.escape(name.rstrip('/'))}/{'**/' if inside else ''}*{ending}"


def _stem(path: Path) -> str:
    return uncompressed_name(path).stem


def _nearest(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f" (the folder {folder} does not exist either)"
    names = sorted(entry.name for entry in folder.iterdir())
    return did_you_mean(path.name, names) or f"; {folder} holds {', '.join(names[:5]) or 'nothing'}"
