"""What a path that a user wrote means: the home folder (`~`), environment variables, relative to the current folder."""

import os
import re
from pathlib import Path

from dlm.errors import UserInputError

_HOME = re.compile(r"~[^/\\]*")
_VARIABLE = re.compile(r"\$(?:\{([^{}]*)\}|(\w+))", re.ASCII)


def user_path(written: str | Path) -> Path:
    """The path that ``written`` stands for: every path of a run file or of the command line goes through here.

    A sign that stands for nothing (``~`` of an unknown user, a variable that is not set) is taken as it is where a file
    or folder of that very name exists.

    Raises:
        UserInputError: a sign that stands for nothing, or a character that no path can have.
    """
    text = str(written)
    if "\0" in text:
        raise UserInputError(f"{text!r}: no such file: a path cannot hold a NUL character")
    expanded = os.path.expanduser(os.path.expandvars(text))
    unknown = _unknown_sign(text, expanded)
    if unknown is None or os.path.lexists(text):
        return Path(text if unknown else expanded)
    raise UserInputError(f"{text}: {unknown}; write the path out")


def _unknown_sign(text: str, expanded: str) -> str | None:
    names = [braced or bare for braced, bare in _VARIABLE.findall(text)]
    missing = next((name for name in names if name not in os.environ), None)
    if missing is not None:
        return f"the environment variable {missing} is not set"
    home = _HOME.match(expanded)
    return f"there is no home folder for {home[0]}" if home and text.startswith("~") else None
