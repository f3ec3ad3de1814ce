"""What a run consists of where it learns from preferences (mode preference): the frozen reference."""

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dlm.config import LoadedConfig, RunConfig, run_components
from dlm.diffusion.objective import DiffusionObjective
from dlm.diffusion.preference_objective import PreferenceObjective
from dlm.diffusion.vocabulary import Vocabulary
from dlm.training.model_and_noise import build_objective
from dlm.training.reference_model import build_reference


def build_preference_objective(
    model: PreTrainedModel,
    loaded: LoadedConfig,
    tokenizer: PreTrainedTokenizerBase,
    vocabulary: Vocabulary,
    device: torch.device,
    *,
    trust_remote_code: bool = False,
) -> PreferenceObjective:
    """As :func:`build_objective`, with a reference beside it: the run's own start, unless another one is named."""
    config, components = loaded.config, run_components(loaded.config, loaded.registry)
    objective = build_objective(model, config, components, vocabulary, cls=PreferenceObjective)

    def build(model: PreTrainedModel, config: RunConfig) -> DiffusionObjective:
        return build_objective(model, config, components, vocabulary)

    objective.reference = build_reference(
        objective,
        config,
        tokenizer,
        loaded.registry,
        name=config.preference.reference,
        build=build,
        device=device,
        trust_remote_code=trust_remote_code,
    )
    return objective
