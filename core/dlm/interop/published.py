"""Read a published diffusion model: its folder becomes one of plain transformers (names, mask token, ends of text)."""

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import transformers
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerBase

from dlm.errors import ModelError
from dlm.interop.layout_configs import plain_config
from dlm.interop.layouts import Layout, block_length_of, layout_of
from dlm.model.checkpoint_tensors import open_tensors, weight_files
from dlm.model.foreign_config import said_to_end
from dlm.model.notices import copy_notices
from dlm.model.tokenizer import DEFAULT_MASK_TOKEN, load_tokenizer, num_ids

_HEAD = "lm_head.weight"
_LLADA_TOP = {"wte": "model.embed_tokens", "ln_f": "model.norm", "ff_out": "lm_head"}
_LLADA_LAYER = {
    "attn_norm": "input_layernorm",
    "ff_norm": "post_attention_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}
_LLADA_NAME = re.compile(r"model\.transformer\.(?:blocks\.(?P<layer>\d+)\.)?(?P<part>\w+)\.weight")
_TOKENIZER_FILES = ("tokenizer*", "vocab*", "merges.txt", "added_tokens.json", "special_tokens_map.json", "*.jinja")


@attrs.frozen(kw_only=True)
class Published:
    """What was found out about a published model."""

    layout: Layout
    mask_token: str
    block_length: int | None
    not_carried: tuple[str, ...]
    """Keys of its ``config.json`` that mean nothing here."""


def recognise(source: Path, wanted: str | None) -> tuple[Layout, dict[str, Any]] | None:
    """The layout of the folder and its ``config.json``; None: an ordinary checkpoint.

    Raises:
        ModelError: As :func:`layout_of`.
    """
    try:
        settings = json.loads((source / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        settings = None  # said better by the reader of ordinary checkpoints
    if not isinstance(settings, dict):
        return None
    layout = layout_of(settings, wanted, f"{source / 'config.json'}")
    return None if layout is None else (layout, settings)


def unpack_published(
    source: Path,
    folder: Path,
    layout: Layout,
    settings: Mapping[str, Any],
    *,
    mask_token: str | None,
    block_length: int | None,
) -> Published:
    """Fill ``folder`` with the same model as plain transformers has it; no code of the checkpoint runs.

    Args:
        source: Folder of the checkpoint.
        folder: Empty folder.
        layout: Its layout.
        settings: Its ``config.json``.
        mask_token: Text of the mask token where the user says it.
        block_length: Tokens in a block where the user says it.

    Raises:
        ModelError: It cannot be mapped; with the reason.
    """
    where = str(source / "config.json")
    length = block_length_of(layout, settings, block_length, where)
    with open_tensors(source) as stored:
        names = {name: _plain_name(layout, name, source) for name in stored.slices}
    fields, not_carried = plain_config(layout, settings, where, has_head=_HEAD in names.values())
    _write_weights(source, folder, names)
    copy_notices(source, folder)
    _copy_tokenizer(source, folder, fields)
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    tokenizer = load_tokenizer(folder)
    token = _mask_token_of(layout, settings, tokenizer, mask_token, source)
    tokenizer.add_special_tokens({"mask_token": token})
    mask_id = int(tokenizer.mask_token_id)
    if mask_id >= fields["vocab_size"]:
        raise ModelError(f"{source}: no row of the embedding for the mask, id {mask_id}: it was never trained")
    tokenizer.save_pretrained(folder)
    fields |= {
        "mask_token_id": mask_id,
        "mask_token": token,
        "logit_shift": layout.logit_shift,
        "eos_token_id": _ends(layout, settings, source, tokenizer, fields["vocab_size"]),
    }
    if layout.bias is not None:
        fields |= {
            "attention_bias_component": {"name": layout.bias},
            "block_length": length,
            "block_origin": "document",
        }
    if layout.chats and tokenizer.chat_template is not None:
        fields["prompt_rendering"] = "chat_template"
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    return Published(layout=layout, mask_token=token, block_length=length, not_carried=tuple(not_carried))


def _plain_name(layout: Layout, name: str, source: Path) -> str:
    """The name of a tensor in the plain class of transformers."""
    if layout.name != "llada":
        return name
    match = _LLADA_NAME.fullmatch(name)
    table = _LLADA_TOP if match is None or match["layer"] is None else _LLADA_LAYER
    if match is None or match["part"] not in table:
        raise ModelError(f"{source}: tensor {name} has no place in a Llama; this llada model cannot be mapped")
    prefix = "" if match["layer"] is None else f"model.layers.{match['layer']}."
    return f"{prefix}{table[match['part']]}.weight"


def _write_weights(source: Path, folder: Path, names: Mapping[str, str]) -> None:
    """The weights by their new names: links where the names are the same, else one file after another."""
    same = all(old == new for old, new in names.items())
    weight_map: dict[str, str] = {}
    for number, file in enumerate(weight_files(source)):
        target = folder / f"model-{number:05d}.safetensors"
        if same:
            os.symlink(file.resolve(), target)
        with safe_open(file, framework="pt") as handle:
            keys = list(handle.keys())
            if not same:
                # A head that shares its memory with nothing is written as it is.
                save_file({names[key]: handle.get_tensor(key) for key in keys}, target, metadata={"format": "pt"})
        weight_map |= {names[key]: target.name for key in keys}
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def _copy_tokenizer(source: Path, folder: Path, fields: Mapping[str, Any]) -> None:
    """Copy the tokenizer's files; a class of the checkpoint's own gives way to the one of its family."""
    for pattern in _TOKENIZER_FILES:
        for file in source.glob(pattern):
            if file.is_file() and file.suffix != ".py":
                shutil.copyfile(file, folder / file.name)
    path = folder / "tokenizer_config.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise ModelError(f"{source / path.name}: not readable: {error}") from error
    if not isinstance(settings, dict):
        raise ModelError(f"{source / path.name}: not readable: no JSON object")
    settings.pop("auto_map", None)
    own = str(settings.get("tokenizer_class", ""))
    if not hasattr(transformers, own):
        family = "Qwen2Tokenizer" if str(fields["model_type"]).startswith("qwen") else "PreTrainedTokenizerFast"
        settings["tokenizer_class"] = "PreTrainedTokenizerFast" if (folder / "tokenizer.json").is_file() else family
    path.write_text(json.dumps(settings), encoding="utf-8")


def _mask_token_of(
    layout: Layout, settings: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, wanted: str | None, source: Path
) -> str:
    """Text of the mask token, on which all that name one must agree."""
    vocabulary = tokenizer.get_vocab()
    if wanted is not None:
        if wanted not in vocabulary:
            raise ModelError(f"{source}: the tokenizer has no {wanted!r}; --mask-token names a token that was trained")
        return wanted
    said = {f"the token {token}": vocabulary[token] for token in layout.mask_tokens if token in vocabulary}
    if tokenizer.mask_token is not None:
        said[f"the tokenizer's mask_token {tokenizer.mask_token}"] = int(tokenizer.mask_token_id)
    own = settings.get("mask_token_id")
    if own is not None and (isinstance(own, bool) or not isinstance(own, int)):
        raise ModelError(f"{source / 'config.json'}: mask_token_id is {own!r}; it must be the id of a token")
    if own is not None:
        said["mask_token_id of config.json"] = own
    if not said and layout.adds_mask:
        return DEFAULT_MASK_TOKEN
    if len(set(said.values())) != 1:
        found = ", ".join(f"{who} is {token_id}" for who, token_id in said.items()) or "nothing names one"
        raise ModelError(f"{source}: which token is the mask? {found}; say it with --mask-token TEXT")
    mask_id = next(iter(said.values()))
    text = tokenizer.convert_ids_to_tokens(mask_id)
    if isinstance(text, str):
        return text
    if layout.adds_mask and mask_id == num_ids(tokenizer):
        return DEFAULT_MASK_TOKEN
    raise ModelError(f"{source}: the mask is id {mask_id}, for which the tokenizer has no token")


def _ends(
    layout: Layout, settings: Mapping[str, Any], source: Path, tokenizer: PreTrainedTokenizerBase, num_rows: int
) -> list[int]:
    """Ids that end a text: of both configurations, the tokenizer, and the family's turns."""
    found: list[Any] = []
    own = said_to_end(str(source), local_files_only=True)
    for said in (settings.get("eos_token_id"), own, tokenizer.eos_token_id):
        found += said if isinstance(said, list) else [said]
    vocabulary = tokenizer.get_vocab()
    found += [vocabulary.get(token) for token in layout.ends]
    return list(dict.fromkeys(each for each in found if isinstance(each, int) and 0 <= each < num_rows))
