"""The raw run file: values as written, the line of each, and command-line overrides (``a.b=value``) on top."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from dlm.config.run_config import short_forms
from dlm.config.yaml12 import MAX_BYTES, Document, YamlError, parse_yaml
from dlm.errors import UserInputError
from dlm.user_paths import user_path
from dlm_plugins import KINDS
from dlm_plugins.errors import Problem
from dlm_plugins.problems import join_path, shown
from dlm_plugins.strict_types import described

COMMAND_LINE = "<command line>"
_SHORT_FORMS = short_forms()


class RunFileError(UserInputError):
    """A run file that cannot be used; ``lines`` holds one problem each, with file, line and key."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = tuple(lines)


@attrs.frozen
class Located:
    """A problem and where it was written."""

    origin: str
    problem: Problem

    def __str__(self) -> str:
        return f"{self.origin}: {self.problem}"


@attrs.define
class WrittenRunFile:
    """What the user wrote."""

    name: str
    value: dict[str, Any]
    origins: dict[str, str]
    """``file:line`` or ``<command line>``, by path."""
    faults: list[Located] = attrs.field(factory=list)
    """What is wrong with the writing itself."""

    def located(self, problem: Problem) -> Located:
        """The problem with its place."""
        return Located(self.origin(problem.path), problem)

    def origin(self, path: str) -> str:
        """Where ``path`` was written, or the nearest thing around it."""
        place = path
        while place and place not in self.origins:
            place = parent_of(place)
        return self.origins.get(place, self.name)

    def override(self, assignment: str) -> None:
        """Apply ``a.b=value``; problems are kept for the report."""
        path, equals, text = assignment.partition("=")
        path = path.strip()
        if not equals or not re.fullmatch(r"[^.\s\[\]]+(\.[^.\s\[\]]+)*", path):
            self._refuse("", f"{shown(assignment)} is not an override; write it as key.key=value")
            return
        try:
            document = parse_yaml(text)
        except YamlError as error:
            self._refuse(path, f"{shown(text)}: {error.message}")
            return
        for fault in document.faults:
            self._refuse(join_path(path, fault.path), fault.message)
        if document.rest.startswith("#"):
            self._refuse(path, f"{shown(document.rest)} would be left out, as a comment; put the value in quotes")
        elif not document.faults:
            self._assign(path, document.value)

    def _refuse(self, path: str, message: str) -> None:
        self.faults.append(Located(COMMAND_LINE, Problem(path, message)))

    def _assign(self, path: str, value: Any) -> None:
        *parents, key = path.split(".")
        holder, place = self.value, ""
        for parent in parents:
            place = join_path(place, parent)
            inner = holder.get(parent)
            if not isinstance(inner, dict):
                # The short form of a component grows into its long form; anything else gives way.
                grows = isinstance(inner, str) and _is_component(place)
                name = inner if grows else _SHORT_FORMS.get(place)
                if inner is None or grows:
                    self.origins.setdefault(place, COMMAND_LINE)
                else:
                    self._came_from_command_line(place)
                inner = {} if name is None else {"name": name}
                holder[parent] = inner
            holder = inner
        holder[key] = _replacement(path, holder.get(key), value)
        self._came_from_command_line(path)

    def _came_from_command_line(self, path: str) -> None:
        inside = tuple(path + sign for sign in ".[")
        self.origins = {place: origin for place, origin in self.origins.items() if not place.startswith(inside)}
        self.origins[path] = COMMAND_LINE


def parent_of(path: str) -> str:
    """The path around ``path``; empty for the document."""
    return path[: max(path.rfind("."), path.rfind("["), 0)]


def read_source(path: str | Path) -> WrittenRunFile:
    """Read a run file.

    Raises:
        RunFileError: the file is missing, unreadable, too large, not UTF-8, not YAML, empty or not a mapping.
    """
    name = str(path)
    try:
        place = user_path(path)
    except UserInputError as error:
        raise RunFileError([str(error)]) from None
    text = _read_text(place, name)
    try:
        document: Document = parse_yaml(text)
    except YamlError as error:
        raise RunFileError([f"{name}:{error.line}: {error.message}"]) from None
    if document.value is None and not document.faults:
        raise RunFileError([f"{name}: the file is empty; configs/reference.yaml shows every key"])
    if not isinstance(document.value, Mapping):
        what = shown(document.value) if not isinstance(document.value, list) else described(list)
        raise RunFileError([f"{name}:{document.lines['']}: the file must hold keys (`key: value`), not {what}"])
    source = WrittenRunFile(
        name=name,
        value=dict(document.value),
        origins={key: f"{name}:{line}" for key, line in document.lines.items()},
    )
    for fault in document.faults:
        source.faults.append(Located(f"{name}:{fault.line}", Problem(fault.path, fault.message)))
    return source


def _read_text(path: Path, name: str) -> str:
    try:
        if path.is_dir() or not path.exists():
            raise RunFileError([f"{name}: {'a folder, not a file' if path.is_dir() else 'no such file'}"])
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise RunFileError([f"{name}: cannot be read: {error.strerror or error}"]) from None
    if len(content) > MAX_BYTES:
        raise RunFileError([f"{name}: larger than {MAX_BYTES} bytes; that is not a run file"])
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RunFileError([f"{name}:{line}: not UTF-8 text; save the file as UTF-8"]) from None


def _is_component(path: str) -> bool:
    return any(path == key or path.startswith(f"{key}.") for key in _SHORT_FORMS)


def _replacement(path: str, old: Any, value: Any) -> Any:
    """``optim=adamw8bit`` replaces the optimizer, not the core's keys beside it."""
    reserved = next((kind.reserved for kind in KINDS.values() if kind.key == path), frozenset[str]())
    kept = {key: item for key, item in old.items() if key in reserved} if isinstance(old, dict) else {}
    return {"name": value, **kept} if kept and isinstance(value, str) else value
