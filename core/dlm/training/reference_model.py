"""The frozen model beside the one that is trained (rl.reference, preference.reference): its start, or one by name."""

from collections.abc import Callable

import attrs
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dlm.config import RunConfig
from dlm.diffusion.objective import DiffusionObjective
from dlm.diffusion.reference import Reference
from dlm.model.adapter_files import fingerprint_of
from dlm.training.adapters import adapters_off
from dlm.training.model_and_noise import build_model
from dlm_plugins.registry import Registry


def build_reference(
    own: DiffusionObjective,
    config: RunConfig,
    tokenizer: PreTrainedTokenizerBase,
    registry: Registry,
    *,
    name: str | None,
    build: Callable[[PreTrainedModel, RunConfig], DiffusionObjective],
    device: torch.device,
    trust_remote_code: bool,
) -> Reference:
    """Load what a loss compares with, or find it in the model that is trained.

    Args:
        own: objective of the model that is trained, before its first step.
        config: of the run.
        tokenizer: of the run.
        registry: of the run.
        name: of the model, or its folder; None: what the run starts from.
        build: makes an objective of a model.
        device: where it is asked.
        trust_remote_code: whether code from the model's folder may run.
    """
    if name is None and config.lora is not None:
        return Reference(objective=own, frozen=lambda: adapters_off(own))
    # Nothing is kept for a backward pass of a frozen model.
    config = attrs.evolve(config, training=attrs.evolve(config.training, gradient_checkpointing=False))
    if name is not None:
        config = attrs.evolve(config, model=attrs.evolve(config.model, name_or_path=name, config=None))
    model = build_model(config, tokenizer, registry, trust_remote_code=trust_remote_code)
    model.requires_grad_(False).eval().to(device)
    return Reference(objective=build(model, config), fingerprint=fingerprint_of(model))
