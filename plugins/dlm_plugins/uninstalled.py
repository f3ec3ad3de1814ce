"""A plugin that is not installed yet, read from the folder of its project."""

import os
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import attrs

from dlm_plugins.discovery import ENTRY_POINT_GROUP, Candidate
from dlm_plugins.errors import PluginSettingError


@attrs.frozen(eq=False)
class ProjectDistribution(metadata.Distribution):
    """What ``pyproject.toml`` says, in the shape that an installed distribution has."""

    folder: Path
    project: dict[str, Any]

    def read_text(self, filename: str) -> str | None:
        """The files of metadata that matter here."""
        if filename == "METADATA":
            found = self.project.get("dependencies")
            requires = found if isinstance(found, list) else []
            lines = [f"Name: {self.project.get('name', 'unknown')}", f"Version: {self.project.get('version', '0')}"]
            return "\n".join([*lines, *(f"Requires-Dist: {each}" for each in requires)])
        if filename == "entry_points.txt":
            group = _table(_table(self.project, "entry-points"), ENTRY_POINT_GROUP)
            return "\n".join([f"[{ENTRY_POINT_GROUP}]", *(f"{name} = {value}" for name, value in group.items())])
        return None

    def locate_file(self, path: str | os.PathLike[str]) -> Any:
        """A file of the project."""
        return self.folder / path


def find_in_project(folder: Path) -> tuple[Candidate, ...]:
    """The plugins that the project in ``folder`` would install. Its code becomes importable in this process.

    Raises:
        PluginSettingError: no readable ``pyproject.toml``, no entry point of the group, or one that names no module.
    """
    file = folder / "pyproject.toml"
    try:
        project = _table(tomllib.loads(file.read_text(encoding="utf-8")), "project")
    except FileNotFoundError:
        raise PluginSettingError(f"{folder} holds no pyproject.toml, so it is not a plugin's project") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PluginSettingError(f"{file}: {error}") from None
    found = tuple(Candidate(each) for each in ProjectDistribution(folder, project).entry_points)
    if not found:
        raise PluginSettingError(
            f'{file} announces no plugin; write `name = "module"` under [project.entry-points."{ENTRY_POINT_GROUP}"]'
        )
    for candidate in found:
        sys.path.insert(0, str(_source_root(folder, candidate.entry_point)))
    return found


def _table(holder: dict[str, Any], key: str) -> dict[str, Any]:
    """A table of the file; empty where there is none, or something else."""
    value = holder.get(key)
    return value if isinstance(value, dict) else {}


def _source_root(folder: Path, entry_point: metadata.EntryPoint) -> Path:
    if entry_point.pattern.match(entry_point.value) is None:
        raise PluginSettingError(
            f"{folder}: the entry point {entry_point.name!r} is {entry_point.value!r}, not a module"
        )
    top = entry_point.module.partition(".")[0]
    for root in (folder, folder / "src"):
        if (root / top).is_dir() or (root / f"{top}.py").is_file():
            return root.resolve()
    raise PluginSettingError(
        f"{folder}: the entry point {entry_point.name!r} names module {top!r}, which is neither here nor in src/"
    )
