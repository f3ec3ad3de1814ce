"""The modelling file of a published folder: model class and sampler, generated from our own source, without ``dlm``."""

from importlib.metadata import version

from transformers import PreTrainedConfig

from dlm.errors import ModelError
from dlm.interop.one_file import OneFile, Place
from dlm.model.configuration_qwen3llada import Qwen3LLadaConfig
from dlm.model.foreign_config import skeleton
from dlm_plugins.discovery import BUILTIN
from dlm_plugins.kinds import KINDS
from dlm_plugins.registry import Registry

MODULE = "modeling_dlm"
"""Name of the file, as ``auto_map`` has it."""

_KINDS = ("remasking", "attention_bias")
"""Kinds of components that sampling uses."""
_INSTEAD: dict[Place, Place] = {
    ("attrs", ""): ("dlm.interop.hf_attrs", "attrs"),
    ("attrs.validators", ""): ("dlm.interop.hf_attrs", ""),
    ("dlm.sampling.arguments", "settings_of"): ("dlm.interop.hf_settings", "settings_of"),
    ("dlm.sampling.arguments", "component"): ("dlm.interop.hf_settings", "component"),
}
"""What the file does without: packages that transformers does not need, and the registry of plugins."""
_HEADING = """A masked diffusion language model for transformers: load it with ``trust_remote_code=True``.

``model.generate`` fills in masks block after block; its arguments are those of transformers (``max_new_tokens``,
``do_sample``, ``temperature``, ...) and of the sampler (``SamplingSettings`` below). Generated from the source of dlm
{version}; changes belong there.
"""
_GUARD = """if int(transformers.__version__.partition(".")[0]) < 5:
    # They do not know rope_parameters, and would compute with the default of rope_theta without a word.
    raise ImportError(f"this model needs transformers 5 or later, not {transformers.__version__}: upgrade it")"""


def modelling_code(config: PreTrainedConfig) -> tuple[str, dict[str, str]]:
    """The text of the file, and ``auto_map``: which of its classes the Auto classes of transformers take.

    Args:
        config: Configuration of the model.

    Raises:
        ModelError: The code of an architecture that is no part of transformers, or of ours, cannot be brought along.
    """
    file = OneFile(instead=_INSTEAD)
    if isinstance(config, Qwen3LLadaConfig):
        own = {"AutoConfig": "Qwen3LLadaConfig", "AutoModel": "Qwen3LLadaModel"}
        model_class, definition = "Qwen3LLadaForMaskedLM", ""
        file.need("dlm.model.configuration_qwen3llada", "Qwen3LLadaConfig")
        file.need("dlm.model.modeling_qwen3llada", model_class)
    else:
        base = type(skeleton(config))
        if not base.__module__.startswith("transformers."):
            raise ModelError(f"{base.__name__} is no model of transformers, so that a folder alone cannot be loaded")
        own, model_class = {}, f"Diffusion{base.__name__}"
        file.need("dlm.model.generate_mixin", "GeneratesByUnmasking")
        file.add_import(base.__name__, "transformers")
        definition = (
            f"class {model_class}(GeneratesByUnmasking, {base.__name__}):\n"
            f'    """``{base.__name__}`` that looks both ways (see its configuration) and generates by unmasking."""'
            "\n\n\n"
        )
    registry = Registry.discover(disable=["all"])
    components = {kind: _components(file, registry, kind) for kind in _KINDS}
    classes = {**own, "AutoModelForMaskedLM": model_class, "AutoModelForCausalLM": model_class}
    file.add_module("transformers")
    text = file.text(_HEADING.format(version=version("dlm")), _GUARD, f"{definition}{_table(components)}")
    return text, {auto: f"{MODULE}.{name}" for auto, name in classes.items()}


def _components(file: OneFile, registry: Registry, kind: str) -> dict[str, str]:
    """Put the built-in components of a kind into the file: class by name."""
    entries = [entry for entry in registry.entries(kind) if entry.plugin == BUILTIN]
    for entry in entries:
        file.need(entry.cls.__module__, entry.cls.__name__)
    return {entry.name: entry.cls.__name__ for entry in entries}


def _table(components: dict[str, dict[str, str]]) -> str:
    lines = []
    for kind, classes in components.items():
        lines += [f"COMPONENTS[{kind!r}] = {{", *(f'    "{name}": {each},' for name, each in classes.items()), "}"]
        lines.append(f"PROTOCOLS[{kind!r}] = {KINDS[kind].protocol.__name__!r}")
    return "\n".join(lines)
