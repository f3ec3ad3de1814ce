"""Upload a published folder to the Hugging Face hub (``dlm export --push NAME``), which alone uses the network."""

import shlex
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils._validators import validate_repo_id

from dlm.errors import ModelError
from dlm.model.checkpoint_sources import one_line, quiet_transformers

_MEANINGS = {
    401: "the hub does not know the token; log in again with `hf auth login`, or set HF_TOKEN",
    403: "the token may not write there; take a name under your own account, or a token with write access",
    404: "no such name there, or the token may not see it",
    409: "it changed while it was uploaded to; try again",
    412: "it changed while it was uploaded to; try again",
    413: "the hub takes no more: it is too large, or the account's storage is full",
    429: "too many requests; try again later",
}
_HUB_IS_BROKEN = "the hub has trouble of its own; try again later"


def check_push(name: str) -> None:
    """Refuse what cannot be uploaded to, before anything is written; asks nobody.

    Raises:
        ModelError: Not a name on the hub, no token, or the network is switched off.
    """
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ModelError(f"--push {name}: {one_line(error)}") from error
    if constants.is_offline_mode():
        raise ModelError(f"--push {name}: HF_HUB_OFFLINE is set, which forbids the network; unset it")
    if get_token() is None:
        raise ModelError(f"--push {name}: no token for the hub; log in with `hf auth login`, or set HF_TOKEN")


def push(folder: Path, name: str, *, private: bool) -> str:
    """Upload a folder as a repository, which is made where there is none; another upload becomes a new commit.

    Args:
        folder: What is uploaded.
        name: ``owner/name``, or ``name`` under the account of the token.
        private: Whether the repository is for its owner only; one that is there already has to be so.

    Returns:
        The address of the repository.

    Raises:
        ModelError: The hub refuses it, or cannot be reached; the folder stays where it is.
    """
    api = HfApi()
    try:
        with quiet_transformers():
            repository = api.create_repo(name, private=private, exist_ok=True)
            if private and not api.model_info(repository.repo_id).private:
                raise ModelError("the repository was there already, for all to see: make it private on the hub first")
            api.upload_folder(repo_id=repository.repo_id, folder_path=folder, commit_message="Upload the model")
    except Exception as error:
        reason = str(error) if isinstance(error, ModelError) else _reason(error)
        raise ModelError(f"--push {name}: {reason}; {_kept(folder, name)}") from error
    return str(repository)


def _kept(folder: Path, name: str) -> str:
    return f"the folder is whole: `hf upload {name} {shlex.quote(str(folder))}` tries again"


def _reason(error: Exception) -> str:
    """What went wrong, from what lies under it too: errors of a thread that uploads a large file come wrapped up."""
    for each in _with_causes(error):
        if isinstance(each, HfHubHTTPError):
            status = each.response.status_code
            meaning = _MEANINGS.get(status, _HUB_IS_BROKEN if status >= 500 else one_line(each))
            return f"refused ({status}): {meaning}"
    # Which library speaks HTTP, and what it raises, is the hub client's affair.
    return f"the upload to {constants.ENDPOINT} failed: {one_line(error)}"


def _with_causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
