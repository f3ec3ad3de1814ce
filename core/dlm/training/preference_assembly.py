"""What a run consists of where it learns from preferences (mode preference): the frozen reference."""

from contextlib import nullcontext

import attrs
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dlm.config import LoadedConfig, RunConfig, run_components
from dlm.diffusion.objective import DiffusionObjective
from dlm.diffusion.preference_objective import PreferenceObjective, Reference
from dlm.diffusion.vocabulary import Vocabulary
from dlm.training.adapters import adapters_off
from dlm.training.model_and_noise import build_model, build_objective


def build_preference_objective(
    model: PreTrainedModel,
    loaded: LoadedConfig,
    tokenizer: PreTrainedTokenizerBase,
    vocabulary: Vocabulary,
    *,
    trust_remote_code: bool = False,
) -> PreferenceObjective:
    """As :func:`build_objective`, with a reference beside it: the run's own start, unless another one is named."""
    config = loaded.config
    components = run_components(config, loaded.registry)
    objective = build_objective(model, config, components, vocabulary, cls=PreferenceObjective)
    if config.preference.reference is None and config.lora is not None:
        same: DiffusionObjective = build_objective(model, config, components, vocabulary)
        objective.reference = Reference(objective=same, frozen=lambda: adapters_off(model))
        return objective
    named = _with_reference(config)
    start = build_model(named, tokenizer, loaded.registry, trust_remote_code=trust_remote_code)
    start.requires_grad_(False).eval().to(model.device)
    frozen: DiffusionObjective = build_objective(start, _plain(named), components, vocabulary)
    objective.reference = Reference(objective=frozen, frozen=nullcontext)
    return objective


def _with_reference(config: RunConfig) -> RunConfig:
    if config.preference.reference is None:
        return config
    return attrs.evolve(config, model=attrs.evolve(config.model, name_or_path=config.preference.reference, config=None))


def _plain(config: RunConfig) -> RunConfig:
    """Nothing is kept for a backward pass of a frozen model."""
    return attrs.evolve(config, training=attrs.evolve(config.training, gradient_checkpointing=False))
