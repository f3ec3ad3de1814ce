"""A folder of a trained diffusion model as the exports read it: configuration, tokenizer, weights, ends of text."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from dlm.errors import ModelError
from dlm.model.adapter_files import refuse_adapters
from dlm.model.analyze import analyze
from dlm.model.checkpoint_sources import resolve_source
from dlm.model.checkpoint_tensors import check_weights
from dlm.model.copy_weights import copy_weights
from dlm.model.foreign_config import load_model_config
from dlm.model.load_model import check_fit
from dlm.model.new_folder import check_destination
from dlm.model.notices import copy_notices
from dlm.model.tokenizer import load_tokenizer
from dlm.user_paths import user_path

_ENDS = ("<|im_end|>", "<|endoftext|>")
"""Ends of a turn and of a text, where the vocabulary is Qwen's."""

_ABOUT_THIS_MACHINE = ("is_local", "local_files_only")
"""What transformers notes of how a tokenizer was read."""


@attrs.frozen(kw_only=True, eq=False)
class TrainedFolder:
    """A folder that ``dlm run``, ``convert`` or ``merge`` wrote."""

    path: Path
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase

    def setting(self, key: str, default: Any = None) -> Any:
        """What ``config.json`` says of ``key``, or ``default`` where it says nothing."""
        value = getattr(self.config, key, None)
        return default if value is None else value

    @property
    def mask_id(self) -> int:
        """The id of the mask."""
        return int(self.config.mask_token_id)

    @property
    def end_ids(self) -> list[int]:
        """Ids that end a text: the model's, the tokenizer's, and the end of a chat's turn."""
        own = self.setting("eos_token_id", [])
        vocabulary = self.tokenizer.get_added_vocab()
        found = [*(own if isinstance(own, list) else [own]), self.tokenizer.eos_token_id]
        found += [vocabulary.get(token) for token in _ENDS]
        rows = self.config.get_text_config().vocab_size
        return list(dict.fromkeys(each for each in found if each is not None and each < rows))


def open_trained(src: str | Path) -> TrainedFolder:
    """Open a model's folder.

    Raises:
        ModelError: No such folder, adapters without their base, weights that cannot be read or are not those of the
            model, or no mask token.
    """
    source, is_folder = resolve_source(src)
    if not is_folder:
        raise ModelError(f"{src}: no such folder; name the folder of a trained model, such as runs/sft/final")
    folder = Path(source)
    refuse_adapters(folder)
    config = load_model_config(source, local_files_only=True)
    check_weights(folder)
    if getattr(config, "mask_token_id", None) is None:
        raise ModelError(
            f"{folder}: no diffusion model (no mask_token_id in config.json): `dlm convert` makes one of it"
        )
    check_fit(folder, config)
    return TrainedFolder(path=folder, config=config, tokenizer=load_tokenizer(folder))


def open_to_export(
    src: str | Path, dst: str | Path, obstacles: Callable[[TrainedFolder], Iterable[str]], refusal: str
) -> tuple[TrainedFolder, Path]:
    """Open a trained folder that is to be written elsewhere in another form, and the path it goes to.

    Args:
        src: the folder.
        dst: where it goes; absent or empty.
        obstacles: whatever would make it mean something else there, each with what to change.
        refusal: what is said before them.

    Raises:
        ModelError: it cannot be opened, there are obstacles, or something is in the way.
    """
    destination = user_path(dst)
    check_destination(destination)
    model = open_trained(src)
    if found := list(obstacles(model)):
        raise ModelError(f"{model.path}: {refusal}: {'; '.join(found)}")
    return model, destination


def copy_with_notices(source: Path, folder: Path) -> None:
    """Copy weights, licence and notices, and read the weights back.

    Raises:
        ModelError: A tensor was not written as it was read.
    """
    copy_weights(source, folder, resized=(), num_rows=0)
    copy_notices(source, folder)
    other = [tensor for tensor in analyze(source, folder).tensors if not tensor.same]
    if other:
        raise ModelError(f"{folder}: tensor {other[0].name} was not written as it was read ({other[0].status})")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object, readable by people."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def save_tokenizer_for_older_readers(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save a tokenizer so that transformers 4, which engines pin, reads it as well.

    Version 5 has a new name for the class of a plain ``tokenizer.json``, and a list where version 4 wants a mapping.
    """
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    for key in _ABOUT_THIS_MACHINE:
        settings.pop(key, None)
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(settings.get("extra_special_tokens"), list):
        settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    write_json(path, settings)
