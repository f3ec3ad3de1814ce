"""Which local files a name in the run file stands for."""

import difflib
import glob
import importlib.util
from collections import Counter
from pathlib import Path

from dlm.data.readers import READERS
from dlm.errors import DataError
from dlm.user_paths import user_path

PACKAGE_PREFIX = "pkg://"
_GLOB_CHARACTERS = "*?["
_ALLOWED = ", ".join(suffix.removeprefix(".") for suffix in READERS)
_SPLITS = ("train", "validation", "valid", "dev", "test", "eval")


def is_local(name: str) -> bool:
    """Whether the name means files here: it looks like a path, or something of that name exists."""
    looks_like_path = name.startswith(("./", "../", "/", "~", "$", ".\\")) or name in {".", ".."}
    has_known_suffix = Path(name).suffix.lower() in READERS
    return looks_like_path or has_known_suffix or any(c in name for c in _GLOB_CHARACTERS) or Path(name).exists()


def find_files(name: str, split: str) -> tuple[Path, ...]:
    """The files of a path, folder, glob or ``pkg://package/path``, in a fixed order.

    A folder is searched with its subfolders. Its files may be named by split (``train-0.jsonl``, ``test/a.txt``);
    where none are, all of them are the split ``train``.

    Raises:
        DataError: nothing there (with the nearest names), an unknown format, several formats, or no such split.
    """
    if name.startswith(PACKAGE_PREFIX):
        path = inside_package(name)
    else:
        path = user_path(name)
        if any(c in name for c in _GLOB_CHARACTERS) and not path.exists():
            found = sorted(Path(match) for match in glob.glob(str(path), recursive=True))
            files = tuple(match for match in found if match.is_file())
            if not files:
                raise DataError(f"{name}: no file matches this pattern")
            return _of_one_format(files, name)
    if path.is_dir():
        return _of_split(_of_one_format(_files_below(path), name), path, name, split)
    if not path.exists():
        raise DataError(f"{name}: no such file or folder{_nearest(path)}")
    if split.partition("[")[0] != "train":
        raise DataError(f"{name}: a single file has only the split 'train', not {split!r}")
    return _of_one_format((path,), name)


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


def _files_below(folder: Path) -> tuple[Path, ...]:
    inside = sorted(path for path in folder.rglob("*") if path.is_file())
    hidden = [path for path in inside if any(part.startswith(".") for part in path.relative_to(folder).parts)]
    return tuple(path for path in inside if path.suffix.lower() in READERS and path not in set(hidden))


def _of_one_format(files: tuple[Path, ...], name: str) -> tuple[Path, ...]:
    if not files:
        raise DataError(f"{name}: no file in a known format in this folder; known are {_ALLOWED}")
    counts = Counter(path.suffix.lower() for path in files)
    unknown = [suffix or "no suffix" for suffix in counts if suffix not in READERS]
    if unknown:
        raise DataError(f"{name}: unknown format ({', '.join(unknown)}); known are {_ALLOWED}")
    if len(counts) > 1:
        found = ", ".join(f"{number} {suffix}" for suffix, number in counts.items())
        raise DataError(f"{name}: files of several formats ({found}); choose with a pattern such as {name}/*.jsonl")
    return files


def _of_split(files: tuple[Path, ...], folder: Path, name: str, split: str) -> tuple[Path, ...]:
    by_split: dict[str, list[Path]] = {}
    for path in files:
        first = path.relative_to(folder).parts[0].lower()
        known = next((word for word in (split.lower(), *_SPLITS) if _names_split(first, word)), None)
        by_split.setdefault(known or "", []).append(path)
    named = sorted(word for word in by_split if word)
    if split in by_split:
        return tuple(by_split[split])
    if split == "train" and not named:
        return files
    raise DataError(f"{name}: no files of the split {split!r}; splits here: {', '.join(named) or 'train'}")


def _names_split(file_name: str, split: str) -> bool:
    stem = file_name.partition(".")[0]
    return stem == split or (stem.startswith(split) and not stem[len(split)].isalnum())


def _nearest(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f" (the folder {folder} does not exist either)"
    names = sorted(entry.name for entry in folder.iterdir())
    close = difflib.get_close_matches(path.name, names, n=3, cutoff=0.4)
    return f"; did you mean {' or '.join(close)}?" if close else f"; {folder} holds {', '.join(names[:5]) or 'nothing'}"
