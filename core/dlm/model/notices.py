"""Which files have to stay with the weights when they go to another folder: licence and notices (LICENSE, NOTICE)."""

import shutil
from pathlib import Path

NOTICES = ("LICENSE*", "NOTICE*")
"""Patterns of their names: files, or a folder such as ``LICENSES``."""


def copy_notices(source: Path, folder: Path) -> None:
    """Copy licence and notices of ``source`` into ``folder``, which exists."""
    for pattern in NOTICES:
        for each in source.glob(pattern):
            if each.is_dir():
                shutil.copytree(each, folder / each.name)
            else:
                shutil.copyfile(each, folder / each.name)
