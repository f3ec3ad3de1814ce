"""Error messages: from exceptions to problems of one line each: where something is wrong, and what."""

from collections.abc import Mapping, Sequence
from typing import Any

from cattrs.errors import (
    AttributeValidationNote,
    BaseValidationError,
    ClassValidationError,
    ForbiddenExtraKeysError,
    IterableValidationError,
    IterableValidationNote,
)

from dlm_plugins.errors import ConfigurationError, Problem

_LONGEST_SHOWN = 60
_LONGEST_REASON = 400


def join_path(parent: str, key: str | int) -> str:
    """The path of ``key`` under ``parent``: ``a.b`` for keys, ``a[0]`` for list items.

    ``key`` may itself be a path. Keys that could not be printed on a line are shown escaped.
    """
    if isinstance(key, int):
        return f"{parent}[{key}]"
    name = key if key.isprintable() and len(key) <= 200 else shown(key)
    if not parent or not name or name.startswith("["):
        return parent + name
    return f"{parent}.{name}"


def shown(value: object) -> str:
    """A value as a message shows it: in the words of YAML, on one line, shortened."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "a list" if len(value) else "an empty list"
    if isinstance(value, int) and abs(value) >= 10**20:
        return "a huge integer"
    text = repr(value[: _LONGEST_SHOWN + 1]) if isinstance(value, str) else repr(value)
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "...'"


def reason_of(error: BaseException) -> str:
    """The message of ``error`` on one line; its type too, unless it is the kind that validators raise."""
    # attrs puts the attribute, the options and the value behind the message: only the message is for the reader.
    text = error.args[0] if error.args and isinstance(error.args[0], str) else str(error)
    text = " ".join(text.split()).encode("utf-8", "backslashreplace").decode()[:_LONGEST_REASON]
    if not text:
        return type(error).__name__
    return text if isinstance(error, ValueError | TypeError) else f"{type(error).__name__}: {text}"


def problems_of(error: BaseException, path: str = "") -> list[Problem]:
    """Everything that ``error`` says is wrong, with paths below ``path``.

    Understands our own errors and those that cattrs raises for the types it structures itself (data classes, typed
    dictionaries, ...); anything else is one problem at ``path``.
    """
    if isinstance(error, ConfigurationError):
        return [Problem(join_path(path, problem.path), problem.message) for problem in error.problems]
    if isinstance(error, ClassValidationError | IterableValidationError):
        return _problems_of_group(error, path)
    if isinstance(error, ForbiddenExtraKeysError):
        return [Problem(join_path(path, key), "unknown key") for key in sorted(map(str, error.extra_fields))]
    if isinstance(error, KeyError):
        return [Problem(join_path(path, str(error.args[0]) if error.args else ""), "required, but missing")]
    return [Problem(path, reason_of(error))]


def _problems_of_group(error: BaseValidationError, path: str) -> list[Problem]:
    problems: list[Problem] = []
    for inner in error.exceptions:
        notes: list[Any] = getattr(inner, "__notes__", [])
        # A missing key is noted as its attribute too, but the KeyError already names it.
        keys = [_key_of(note) for note in notes if not isinstance(inner, KeyError)]
        place = next((key for key in keys if key is not None), "")
        problems.extend(problems_of(inner, join_path(path, place)))
    return problems


def _key_of(note: object) -> str | int | None:
    if isinstance(note, AttributeValidationNote):
        return note.name
    if isinstance(note, IterableValidationNote):
        return note.index if isinstance(note.index, int) else str(note.index)
    return None
