"""What stays with the weights when they go to another folder: licence, notices, and a card that says where from."""

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCardData, metadata_load, snapshot_download

from dlm.errors import ModelError
from dlm.model.checkpoint_sources import foreign_code, one_line, resolve_source

logger = logging.getLogger(__name__)

NOTICES = ("LICENSE*", "NOTICE*")
"""Patterns of their names: files, or a folder such as ``LICENSES``."""
CARD = "README.md"
"""The model card, whose metadata names licence and base."""
NO_LICENCE = "unknown"
"""The hub's word where no licence is known."""
OWN_TAG = "dlm"
"""Of cards written here: their base is what the model was made from, not what its parent was."""


def copy_notices(source: Path, folder: Path) -> None:
    """Copy licence and notices of ``source`` into ``folder``, which exists."""
    for pattern in NOTICES:
        for each in source.glob(pattern):
            if each.is_dir():
                shutil.copytree(each, folder / each.name, dirs_exist_ok=True)
            else:
                shutil.copyfile(each, folder / each.name)


def carry_notices(base: str | Path, folder: Path, made: str) -> None:
    """Bring licence and notices of the model that ``folder`` was made from into it, and a card that says so.

    Args:
        base: Folder, or name on the hub, which is asked for them and need not answer.
        folder: Exists.
        made: How it was made, for the card.

    Raises:
        OSError: They cannot be copied.
    """
    source, is_folder = resolve_source(base)
    home = Path(source) if is_folder else _from_hub(source)
    write_card(home, folder, f"{made} from {base}", None if is_folder else source)
    if home is not None:
        copy_notices(home, folder)


def _from_hub(name: str) -> Path | None:
    try:
        with foreign_code(name):
            return Path(snapshot_download(name, allow_patterns=[CARD, *NOTICES]))
    except ModelError:
        return None


def write_card(source: Path | None, folder: Path, made: str, hub_name: str | None) -> None:
    """Write a card with the licence of ``source`` and its base, and nothing of its text, which is about another model.

    Args:
        source: Folder with a card, or without.
        folder: Exists.
        made: From what and how ``folder`` was made.
        hub_name: Name of the source on the hub, where it has one.
    """
    said: Mapping[str, Any] = {}
    try:
        said = {} if source is None else read_card(source / CARD)
    except ModelError as error:
        logger.warning("%s: licence and base are left out", error)
    tags = said.get("tags")
    base = said.get("base_model") if isinstance(tags, list) and OWN_TAG in tags else None
    data = ModelCardData(**licence_in(said), base_model=hub_name or base, tags=[OWN_TAG])
    text = f"---\n{data.to_yaml()}\n---\n\n{' '.join(made.split())}.\n"
    (folder / CARD).write_text(text, encoding="utf-8")


def read_card(card: Path) -> Mapping[str, Any]:
    """The metadata of a model card; empty where there is none.

    Raises:
        ModelError: It cannot be read.
    """
    try:
        return (metadata_load(card) or {}) if card.is_file() else {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ModelError(
            f"{card}: cannot be read for the licence ({one_line(error)}); mend it, or move it away"
        ) from error


def licence_in(said: Mapping[str, Any]) -> dict[str, Any]:
    """What the metadata of a card says about the licence; empty where it does not know."""
    if not said.get("license") or said["license"] == NO_LICENCE:
        return {}
    found = {key: said.get(key) for key in ("license", "license_name", "license_link")}
    return {key: value for key, value in found.items() if value is not None}
