"""``dlm data tokenize``: the data of a run tokenized before it starts, into the token cache or another folder."""

import os
from pathlib import Path

from accelerate import Accelerator

from dlm.config import LoadedConfig
from dlm.data.token_cache import NOT_KEPT, VARIABLE, cache_folder
from dlm.errors import UserInputError
from dlm.training.model_and_noise import build_tokenizer
from dlm.training.run_data import PreparedData, prepare_data


def tokenize(loaded: LoadedConfig, accelerator: Accelerator, folder: Path | None = None) -> PreparedData:
    """Tokenize all that a run would, as far as that was not done yet.

    Args:
        loaded: the run.
        accelerator: of it.
        folder: where the ids go; None: into the cache.

    Raises:
        DlmError: tokenizer or data cannot be used.
        UserInputError: the run reads a stream or learns from rewards, or the folder cannot be used.
    """
    config = loaded.config
    if config.dataset.streaming:
        raise UserInputError("dataset.streaming: a stream is tokenized as it is read; set it to false")
    if config.training.mode == "rl":
        raise UserInputError("training.mode: rl tokenizes its prompts at each start; there is nothing to keep")
    _check_folder(folder or cache_folder())
    before = os.environ.get(VARIABLE)
    if folder is not None:
        os.environ[VARIABLE] = str(folder)
    try:
        data = prepare_data(config, build_tokenizer(config), accelerator)
    finally:
        if before is not None:
            os.environ[VARIABLE] = before
        elif folder is not None:
            del os.environ[VARIABLE]
    lost = next((line for line in data.origin if line.startswith(NOT_KEPT)), None)
    if lost is not None:
        raise UserInputError(lost)
    return data


def _check_folder(folder: Path | None) -> None:
    """Say before the work what would make it vain."""
    if folder is None:
        raise UserInputError(f"{NOT_KEPT} ({VARIABLE}=off); name a folder with --out")
    try:
        (folder / "tokens").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserInputError(f"{NOT_KEPT} ({folder}: {error.strerror}); name another folder with --out") from error
