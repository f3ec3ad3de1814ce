"""Load a tokenizer, choose or add its mask token (``<|mask|>``), and resize the model's vocabulary to it."""

import json
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from dlm.errors import ModelError
from dlm.model.checkpoint_sources import foreign_code, quiet_transformers, resolve_source, searched
from dlm.model.foreign_config import refuse_published

logger = logging.getLogger(__name__)

DEFAULT_MASK_TOKEN = "<|mask|>"
"""What a tokenizer gets that has no mask token."""

_TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model", "*.tiktoken", "*.py")
"""Files that a tokenizer can be read from."""


def load_tokenizer(
    name_or_path: str | Path, *, trust_remote_code: bool = False, revision: str | None = None
) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a folder or of a name on the Hugging Face hub.

    Raises:
        ModelError: There is none, or it cannot be read; with the reason.
    """
    source, is_folder = resolve_source(name_or_path)
    if is_folder and not any(any(Path(source).glob(pattern)) for pattern in _TOKENIZER_FILES):
        raise ModelError(f"{source}: there is no tokenizer here (no tokenizer.json, and nothing in its place)")
    origin: dict[str, Any] = {"trust_remote_code": trust_remote_code, "local_files_only": is_folder}
    if revision is not None:
        origin["revision"] = revision
    try:
        with foreign_code(f"{searched(source)}: the tokenizer cannot be loaded"):
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source, **origin)
    except ModelError:
        # transformers reads config.json too, and fails over a type of model that it does not know.
        if is_folder:
            _refuse_unconverted(Path(source) / "config.json")
        raise
    # A folder without tokenizer files gives some families a tokenizer that knows special tokens only.
    if len(tokenizer.get_vocab()) <= len(special_ids(tokenizer)):
        raise ModelError(f"{source}: there is no tokenizer here")
    return tokenizer


def _refuse_unconverted(path: Path) -> None:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if isinstance(settings, dict):
        refuse_published(settings, str(path))


def num_ids(tokenizer: PreTrainedTokenizerBase) -> int:
    """The number of ids that ``tokenizer`` may give: the largest one plus one."""
    return max(tokenizer.get_vocab().values(), default=-1) + 1


def ensure_mask_token(tokenizer: PreTrainedTokenizerBase, token: str | None) -> int:
    """Give ``tokenizer`` a mask token and return its id.

    Args:
        tokenizer: Changed in place: ``mask_token`` is set, and the token is added where it does not exist.
        token: Text of the mask token; None: the one that the tokenizer declares itself, else ``<|mask|>``. One that
            replaces a declared token is announced by a warning.

    Returns:
        The id of the mask token. For Qwen3's tokenizer and ``<|mask|>`` this is 151669.

    Raises:
        ModelError: The token serves another purpose already, or does not become one id.
    """
    declared = tokenizer.mask_token
    if token is None:
        token = str(declared or DEFAULT_MASK_TOKEN)
    if not token.strip():
        raise ModelError("mask_token is empty; name a text that never occurs in the data, for example <|mask|>")
    if declared != token:
        for role in ("bos_token", "eos_token", "pad_token", "unk_token"):
            if getattr(tokenizer, role, None) == token:
                raise ModelError(f"mask_token {token!r} is the {role} of this tokenizer already; choose another")
        if declared is not None:
            logger.warning("mask token: %s replaces %s, which the tokenizer declares", token, declared)
        tokenizer.add_special_tokens({"mask_token": token})
    mask_id: int = tokenizer.mask_token_id
    if tokenizer.encode(token, add_special_tokens=False) != [mask_id]:
        raise ModelError(f"the tokenizer does not read {token!r} as one token; choose another mask_token")
    return mask_id


def special_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids of all tokens that are not text, in order: end of sequence, padding, mask, chat markup."""
    added: dict[int, Any] = getattr(tokenizer, "added_tokens_decoder", {})
    marked = {token_id for token_id, token in added.items() if token.special}
    return sorted(marked | set(tokenizer.all_special_ids))


def rows_needed(num_rows: int, tokenizer: PreTrainedTokenizerBase, mask_id: int) -> int:
    """The smallest embedding that holds all ids of ``tokenizer``: ``num_rows`` itself where they fit.

    Raises:
        ModelError: ``mask_id`` is outside both the embedding and the tokenizer.
    """
    ids = num_ids(tokenizer)
    if not 0 <= mask_id < max(num_rows, ids):
        raise ModelError(
            f"mask id {mask_id} is outside the vocabulary: the model has {num_rows} rows, the tokenizer {ids} ids"
        )
    return max(num_rows, ids)


def fit_vocabulary(model: Any, tokenizer: PreTrainedTokenizerBase, mask_id: int) -> int:
    """Make room in ``model`` for every id of ``tokenizer``, with the smallest resize, none where they fit.

    Args:
        model: A decoder; its embedding and head grow together. New rows are the mean of the old ones.
        tokenizer: Its ids, the mask id among them, must fit.
        mask_id: The mask id.

    Returns:
        The number of rows of the embedding.

    Raises:
        ModelError: ``mask_id`` is outside the vocabulary of both.
    """
    old_rows = int(model.get_input_embeddings().num_embeddings)
    new_rows = rows_needed(old_rows, tokenizer, mask_id)
    if new_rows == old_rows:
        return old_rows
    with quiet_transformers():
        model.resize_token_embeddings(new_rows, mean_resizing=False)
    head = model.get_output_embeddings()
    tensors = [model.get_input_embeddings().weight, head.weight, getattr(head, "bias", None)]
    with torch.no_grad():
        for tensor in tensors:
            if tensor is not None:
                tensor.copy_(extended(tensor[:old_rows], new_rows))
    return new_rows


def extended(tensor: Tensor, num_rows: int) -> Tensor:
    """``tensor`` (R, ...) with rows appended up to ``num_rows``, each the mean of the old ones.

    The mean, taken in float64 where the device has it (float32 otherwise), is the same on every run, unlike a draw.
    """
    wide = torch.float32 if tensor.device.type == "mps" else torch.float64
    mean = tensor.mean(dim=0, keepdim=True, dtype=wide).to(tensor.dtype)
    missing = num_rows - tensor.shape[0]
    return torch.cat([tensor, mean.expand(missing, *tensor.shape[1:])])
