"""Decide whether a foreign ``config.json`` describes a decoder that dlm can use, and name the key where it does not."""

import copy
import json
import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils.hub import cached_file

from dlm.errors import ModelError
from dlm.model.checkpoint_sources import foreign_code, one_line, quiet_transformers, searched
from dlm.model.configuration_qwen3llada import Qwen3LLadaConfig
from dlm.model.quantisation import refuse_quantised_config
from dlm_plugins.suggestions import did_you_mean

logger = logging.getLogger(__name__)

_BOTH_WAYS = frozenset({"full_attention", "sliding_attention"})
"""Types of layers that can look in both directions, and as far as a mask says."""

_COUNTED = re.compile(r"(layers?|heads?|experts|layers?_types)$")
"""Ends of the keys that say how many modules are built."""

_MOST_MODULES = 10_000
"""More layers, heads or experts than any model has: only memory would end the attempt to build them."""


def load_model_config(source: str, **origin: Any) -> PreTrainedConfig:
    """The configuration of a checkpoint, refused if it is no decoder that can be built.

    Args:
        source: A folder, or a name on the hub.
        **origin: As transformers' ``from_pretrained`` takes it: ``trust_remote_code``, ``local_files_only``, ...

    Raises:
        ModelError: No readable configuration, an unknown type of model, a quantised model, an encoder-decoder, or
            values of which no model can be made; with the key.
    """
    _require_config(Path(source))
    with foreign_code(f"{searched(source)}: no usable config.json"):
        raw = PreTrainedConfig.get_config_dict(source, **origin)[0]
    where = f"{source}: config.json"
    if not isinstance(raw, dict):
        raise ModelError(f"{where}: holds no settings but {raw!r:.60}")
    refuse_quantised_config(raw, source)
    refuse_absurd_numbers(raw, where)
    if raw.get("transformers_weights") is not None:
        raise ModelError(
            f"{where}: transformers_weights names other files than model.safetensors or its index; rename the files, "
            "and remove the key"
        )
    trust = bool(origin.get("trust_remote_code"))
    refuse_unknown_type(raw, where, trust_remote_code=trust)
    try:
        with quiet_transformers():
            config: PreTrainedConfig = AutoConfig.from_pretrained(source, **origin)
            drop_padding_outside(config, where)
            check_decoder(config, source)
            skeleton(config, trust_remote_code=trust)
    except ModelError:
        raise
    except Exception as error:
        keys = blamed_keys(raw, lambda settings: skeleton(_config_of(settings)))
        raise ModelError(f"{where}: {keys}no model can be made of it: {one_line(error)}") from error
    add_ends(config, said_to_end(source, **origin))
    if not trust and hasattr(config, "auto_map"):
        # Code that does not run here is not copied along either: what is saved would name files that are not there.
        del config.auto_map
    return config


def said_to_end(source: str, **origin: Any) -> list[Any]:
    """What ``generation_config.json`` of a checkpoint says of ends of text: chat models often name more there.

    Raises:
        ModelError: It is there, and not readable.
    """
    try:
        with quiet_transformers():
            path = cached_file(source, "generation_config.json", **origin)
    except OSError:
        return []
    try:
        said = json.loads(Path(str(path)).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: not readable: {one_line(error)}; mend it, or remove it") from error
    ends = said.get("eos_token_id") if isinstance(said, dict) else None
    return ends if isinstance(ends, list) else [ends]


def add_ends(config: PreTrainedConfig, ends: Iterable[Any]) -> None:
    """Let ``config`` name further ends of text, behind its own: samplers and exports look nowhere else."""
    own = getattr(config, "eos_token_id", None)
    known = [each for each in (own if isinstance(own, list | tuple) else [own]) if each is not None]
    rows = config.get_text_config().vocab_size
    new = [each for each in ends if type(each) is int and 0 <= each < rows and each not in known]
    if new:
        found = list(dict.fromkeys([*known, *new]))
        with suppress(StrictDataclassError):  # a few families have room for one only
            config.eos_token_id = found if len(found) > 1 else found[0]


def _require_config(folder: Path) -> None:
    """Refuse a folder that is no model, and name one inside that is: a run's output holds ``final``."""
    if not folder.is_dir() or (folder / "config.json").exists():
        return
    inside = sorted(path.parent for path in folder.glob("*/config.json"))
    hint = f"; did you mean {inside[0]}?" if inside else "; give the folder of a model"
    raise ModelError(f"{folder}: no config.json in this folder{hint}")


def refuse_absurd_numbers(settings: Mapping[str, Any], where: str) -> None:
    """Refuse numbers that nothing can be built of: NaN, infinity, and modules that would be made until memory ends.

    Raises:
        ModelError: There is one, or more than 10,000 layers, heads or experts; with the key.
    """
    for key, value in settings.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ModelError(f"{where}: {key}: {value} is not a finite number")
        if isinstance(value, int) and _COUNTED.search(str(key)) and value > _MOST_MODULES:
            raise ModelError(f"{where}: {key}: {value} is more than any model has (at most {_MOST_MODULES:,})")


def refuse_unknown_type(settings: Mapping[str, Any], where: str, *, trust_remote_code: bool) -> None:
    """Refuse a type of model that transformers has no code for.

    Raises:
        ModelError: It is unknown, a published diffusion model that is to be converted first, or comes with code of
            its own that was not asked for.
    """
    name = settings.get("model_type")
    if not isinstance(name, str) or name in CONFIG_MAPPING or (trust_remote_code and "auto_map" in settings):
        return
    refuse_published(settings, where)
    if "auto_map" in settings:
        raise ModelError(
            f"{where}: model_type {name!r} comes with code of its own (auto_map), which runs only where you allow it; "
            "read it, then give --trust-remote-code"
        )
    raise ModelError(
        f"{where}: model_type {name!r} is unknown to transformers {transformers.__version__}"
        f"{did_you_mean(name, CONFIG_MAPPING) or '; a newer one may know it'}"
    )


def refuse_published(settings: Mapping[str, Any], where: str) -> None:
    """Refuse a published diffusion model that is used as it is.

    Raises:
        ModelError: It is one; with how it is converted.
    """
    # interop imports the models.
    from dlm.interop.layouts import how_to_convert

    remedy = how_to_convert(settings)
    if remedy is not None:
        raise ModelError(f"{where}: model_type {settings['model_type']!r} is {remedy}")


def drop_padding_outside(config: PreTrainedConfig, where: str) -> None:
    """Forget a padding id outside the vocabulary, with a warning: it could not be built, and dlm does not use it."""
    text_config = config.get_text_config()
    for part in {id(config): config, id(text_config): text_config}.values():
        pad = getattr(part, "pad_token_id", None)
        rows = getattr(part, "vocab_size", None)
        if pad is not None and rows is not None and not 0 <= pad < rows:
            logger.warning("%s: pad_token_id %s is not in the vocabulary (0 to %s): not used", where, pad, rows - 1)
            part.pad_token_id = None


def check_decoder(config: PreTrainedConfig, origin: str) -> None:
    """Refuse families that cannot be bidirectional decoders; ``origin`` says in errors where the config came from.

    Raises:
        ModelError: An encoder-decoder, layers that read in one direction only, or layers that look at a window. (Who
            sees whom is decided by masks here, and a mask replaces the window of a layer: the same model would attend
            differently in rows with and without padding.)
    """
    if config.is_encoder_decoder:
        raise ModelError(f"{origin}: {config.model_type} is an encoder-decoder; dlm needs a decoder")
    one_way = sorted(set(getattr(config, "layer_types", None) or ()) - _BOTH_WAYS)
    if one_way:
        raise ModelError(
            f"{origin}: {config.model_type} has layers of type {', '.join(one_way)}, which do not see all of a row"
        )
    text_config = config.get_text_config()
    window = getattr(text_config, "sliding_window", None)
    layer_types = getattr(text_config, "layer_types", None) or ("sliding_attention",)
    longest = getattr(text_config, "max_position_embeddings", None)
    if window is not None and "sliding_attention" in layer_types and (longest is None or window < longest):
        raise ModelError(
            f"{origin}: layers of this {config.model_type} look at a window of {window} tokens only; set "
            "sliding_window to null in its configuration (and every entry of layer_types to full_attention) to let "
            "them see whole rows"
        )


def auto_class_of(config: PreTrainedConfig) -> Any:
    """The Auto class of transformers that makes a decoder with a head of ``config``."""
    return AutoModelForMaskedLM if isinstance(config, Qwen3LLadaConfig) else AutoModelForCausalLM


def skeleton(config: PreTrainedConfig, *, trust_remote_code: bool = False) -> Any:
    """The model of ``config`` without memory for its weights (on torch's meta device)."""
    with torch.device("meta"):
        return auto_class_of(config).from_config(copy.deepcopy(config), trust_remote_code=trust_remote_code)


def _config_of(settings: dict[str, Any]) -> PreTrainedConfig:
    """A configuration of a model type that transformers knows."""
    config: PreTrainedConfig = CONFIG_MAPPING[settings["model_type"]].from_dict(settings)
    return config


def blamed_keys(settings: Mapping[str, Any], build: Callable[[dict[str, Any]], Any]) -> str:
    """The keys to name where ``build(settings)`` fails, as the beginning of a message.

    transformers fails somewhere deep, with a message that need not mention a key: ``integer modulo by zero``. A key is
    to blame if everything works without it, that is, with the default of its class.
    """
    shown = ", ".join(f"{key} {settings[key]!r:.60}" for key in _repairing_keys(settings, build))
    return f"{shown}: " if shown else ""


def _repairing_keys(settings: Mapping[str, Any], build: Callable[[dict[str, Any]], Any]) -> Iterator[str]:
    for key in settings:
        if key == "model_type":
            continue
        try:
            with quiet_transformers():
                build({other: copy.deepcopy(value) for other, value in settings.items() if other != key})
        except Exception:
            continue
        yield key
