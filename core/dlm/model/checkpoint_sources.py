"""Where pretrained checkpoints come from: folders and hub names, safetensors only, and errors of one line."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers.utils import logging

from dlm.errors import DlmError, ModelError
from dlm.user_paths import user_path

_MESSAGE_LENGTH = 400


def one_line(error: BaseException) -> str:
    """The message of ``error`` on one line, shortened."""
    text = " ".join(str(error).split()) or type(error).__name__
    if "scaled_dot_product_attention" in text:
        # transformers says it in a paragraph about feature requests.
        return "this family has no sdpa attention; set attn_implementation to eager"
    return text if len(text) <= _MESSAGE_LENGTH else text[: _MESSAGE_LENGTH - 3] + "..."


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' progress bars and warnings; what they would say about weights is checked by the caller."""
    verbosity = logging.get_verbosity()
    had_progress_bar = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_progress_bar:
            logging.enable_progress_bar()


@contextmanager
def foreign_code(failure: str) -> Iterator[None]:
    """Run code of others on files of others, quietly: whatever it raises becomes a :class:`ModelError` of one line.

    There is no list of what it may raise: transformers asserts, divides by zero, misses keys, and tokenizers raises a
    plain ``Exception``.

    Args:
        failure: Beginning of the message: where, and what went wrong.

    Raises:
        ModelError: Something was raised.
    """
    try:
        with quiet_transformers():
            yield
    except DlmError:
        raise
    except Exception as error:
        raise ModelError(f"{failure}: {one_line(error)}") from error


def resolve_source(name_or_path: str | Path) -> tuple[str, bool]:
    """A checkpoint's folder or hub name, and whether it is a folder.

    Raises:
        ModelError: A path to a folder that does not exist, or to a file.
    """
    text = str(name_or_path)
    if not text.strip():
        raise ModelError("the name of the model is empty: no such folder")
    path = user_path(text)
    if path.is_dir():
        return str(path), True
    if path.exists():
        hint = "; `dlm convert` makes such a folder of it" if path.suffix.lower() == ".gguf" else ""
        raise ModelError(f"{text}: a file; give the folder that holds config.json and the weights{hint}")
    # A hub name is "name" or "owner/name"; anything else can only have been meant as a path.
    looks_like_path = isinstance(name_or_path, Path) or text.startswith((".", "/", "~", "$")) or text.count("/") > 1
    if looks_like_path or "\\" in text:
        raise ModelError(f"{text}: no such folder")
    return text, False


def searched(source: str) -> str:
    """How messages call a source that was looked for: a name on the hub may have been meant as a folder."""
    return source if Path(source).is_dir() else f"{source}: no such folder, and from the hub"


SHARDED_WEIGHTS = "weights"
"""Folder of a sharded checkpoint with the files of each process; a model has a file instead."""

STATE_FILE = "trainer_state.json"
"""Where a run stands: a checkpoint has it, and a model does not."""


def is_sharded(folder: Path) -> bool:
    """Whether a folder is a checkpoint of which each process wrote its part."""
    return (folder / SHARDED_WEIGHTS).is_dir()


def require_safetensors(folder: Path) -> None:
    """Refuse a folder without safetensors: other formats would be unpickled, which can run code.

    Raises:
        ModelError: There is no ``*.safetensors`` file in ``folder``.
    """
    if any(folder.glob("*.safetensors")):
        return
    if is_sharded(folder):
        merge = f"dlm merge {shlex.quote(str(folder))} --out DIR"
        raise ModelError(f"{folder}: a sharded checkpoint; `{merge}` makes a model of it")
    pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    found = f"only {', '.join(pickled[:3])}, which would have to be unpickled" if pickled else "no weights"
    raise ModelError(f"{folder}: there are {found}; weights must be in *.safetensors")
