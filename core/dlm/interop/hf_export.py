"""Export for plain transformers (``dlm export --format hf``): weights, tokenizer, modelling code and a model card."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from dlm.interop.hf_card import model_card
from dlm.interop.hf_code import MODULE, modelling_code
from dlm.interop.trained_folder import (
    TrainedFolder,
    copy_with_notices,
    open_to_export,
    save_tokenizer_for_older_readers,
    write_json,
)
from dlm.model.new_folder import published


@attrs.frozen(kw_only=True)
class HuggingFaceExport:
    """What was written."""

    destination: str
    model_class: str
    """Class in the modelling file."""
    to_fill_in: tuple[str, ...]
    """What the model card does not know."""


def export_hugging_face(src: str | Path, dst: str | Path, *, name: str | None = None) -> HuggingFaceExport:
    """Write a model so that plain transformers loads it with ``trust_remote_code=True``, without ``dlm``.

    The weights are copied byte by byte. The modelling code is generated from ours, so that logits and texts are the
    same.

    Args:
        src: Folder of a trained model.
        dst: Folder to write; absent or empty. It appears whole or not at all.
        name: What the model card calls the model; None: the name of ``dst``.

    Raises:
        ModelError: The folder would mean something else without ``dlm``; with everything that stands in the way and
            what to change.
    """
    model, destination = open_to_export(src, dst, _obstacles, "cannot be published without dlm")
    code, auto_map = modelling_code(model.config)
    card = model_card(model, name or destination.name)
    model_class = auto_map["AutoModelForMaskedLM"].rpartition(".")[2]
    with published(destination) as folder:
        copy_with_notices(model.path, folder)
        save_tokenizer_for_older_readers(model.tokenizer, folder)
        settings = json.loads((model.path / "config.json").read_text(encoding="utf-8"))
        own = {"architectures": [model_class], "auto_map": auto_map, "is_causal": False, "use_cache": False}
        write_json(folder / "config.json", {**settings, **own})
        if (model.path / "generation_config.json").is_file():
            shutil.copyfile(model.path / "generation_config.json", folder / "generation_config.json")
        (folder / f"{MODULE}.py").write_text(code, encoding="utf-8")
        (folder / "README.md").write_text(card.text, encoding="utf-8")
    return HuggingFaceExport(destination=str(destination), model_class=model_class, to_fill_in=card.to_fill_in)


def _obstacles(model: TrainedFolder) -> Iterator[str]:
    """What a folder cannot bring along, each with what to change."""
    for bias in _names(model.setting("attention_bias_component", {})):
        if ":" in bias and not bias.startswith("builtin:"):
            yield (
                f"its attention bias {bias} is the code of a plugin: train with a built-in one "
                "(training.block_attention.bias), or publish the plugin and let people use dlm"
            )
    if model.setting("noise_shows_mask", default=True) is False:
        yield "it has never seen the mask, so that it cannot generate: train with noise_type: mask"


def _names(component: Any) -> Iterator[str]:
    """The names in a component as it is written down, options that are components themselves included."""
    if isinstance(component, str):
        yield component
    elif isinstance(component, Mapping | list):
        values = component.values() if isinstance(component, Mapping) else component
        yield from (name for value in values for name in _names(value))
