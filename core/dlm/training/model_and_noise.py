"""Build tokenizer, model (LoRA, compile, gradient checkpointing), noise and objective from the configuration."""

import logging
from collections.abc import Mapping
from typing import TypeVar

import attrs
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dlm.config import RunConfig, TokenizerConfig, run_components
from dlm.data.batch import RandomLength
from dlm.data.tokenizer_training import train_tokenizer
from dlm.diffusion.cross_entropy import SamplingLaw
from dlm.diffusion.exact_counts import EveryRate, ExactCounts
from dlm.diffusion.forward_process import ForwardProcess, refuse_broken_schedule
from dlm.diffusion.objective import Attention, DiffusionObjective
from dlm.diffusion.times import TIME_SAMPLERS, TIME_UNITS, grid_times, jittered_grid_times
from dlm.diffusion.vocabulary import Vocabulary, word_start_table
from dlm.errors import UserInputError
from dlm.model.attention import AUTO, choose_implementation, padding_of, use_attention
from dlm.model.body_and_head import decoder_layers, split
from dlm.model.checkpoint_sources import resolve_source
from dlm.model.from_scratch import model_from_config
from dlm.model.load_model import load_model, make_bidirectional
from dlm.model.tokenizer import DEFAULT_MASK_TOKEN, ensure_mask_token, fit_vocabulary, load_tokenizer, special_ids
from dlm.training.adapters import add_adapters
from dlm.training.run_data import isolates_documents, read_training_texts
from dlm.training.weights import Weights, WholeWeights
from dlm_plugins import RunComponents
from dlm_plugins.attention_bias import NEEDS_CLEAN_COPY, bias_at_end, blocks_are_separate
from dlm_plugins.loss import NEEDS_CAUSAL_COPY, NUM_DRAWS
from dlm_plugins.masking import IS_INDEPENDENT
from dlm_plugins.noise_type import IS_ABSORBING, MAY_WRITE_MASK
from dlm_plugins.registry import Registry
from dlm_plugins.structuring import unstructure_component

logger = logging.getLogger(__name__)

Objective = TypeVar("Objective", bound=DiffusionObjective)

EVALUATION_SEED = 0x0E7A1
"""Mixed into the run's seed for the noise of evaluation, which is the same at every evaluation."""


def build_tokenizer(config: RunConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of the run, with a mask token: trained on the data set, named, or the model's own."""
    wanted = config.model.tokenizer
    if isinstance(wanted, TokenizerConfig):
        return train_tokenizer(
            read_training_texts(config),
            vocab_size=wanted.train.vocab_size,
            mask_token=config.model.mask_token or DEFAULT_MASK_TOKEN,
        )
    tokenizer = load_tokenizer(str(wanted or config.model.name_or_path))
    ensure_mask_token(tokenizer, config.model.mask_token)
    return tokenizer


def build_model_and_weights(
    config: RunConfig,
    tokenizer: PreTrainedTokenizerBase,
    registry: Registry,
    *,
    trust_remote_code: bool = False,
    empty_with: Mapping[str, object] | None = None,
) -> tuple[PreTrainedModel, Weights]:
    """The model of the run, and what of it is trained and saved: all of it, or adapters.

    Args:
        config: of the run.
        tokenizer: of :func:`build_tokenizer`.
        registry: of the run's plugins.
        trust_remote_code: whether code from the model's folder may run.
        empty_with: leave the parameters on the meta device, to be filled with contents of which these are the facts
            (:meth:`dlm.training.weights.Weights.facts`).
    """
    is_empty = empty_with is not None
    model = build_model(config, tokenizer, registry, trust_remote_code=trust_remote_code, empty=is_empty)
    return model, build_weights(config, model, empty_with)


def build_model(
    config: RunConfig,
    tokenizer: PreTrainedTokenizerBase,
    registry: Registry,
    *,
    trust_remote_code: bool = False,
    empty: bool = False,
) -> PreTrainedModel:
    """The model of the run, loaded or from scratch. Its configuration says how it is trained: sampling follows it."""
    settings = config.model
    mask_id = ensure_mask_token(tokenizer, settings.mask_token)
    # Which one trains is chosen where the device is known.
    loaded_with = None if settings.attn_implementation == AUTO else settings.attn_implementation
    if settings.name_or_path is None:
        model = model_from_config(
            settings.config or {},
            vocab_size=len(tokenizer),
            mask_token_id=mask_id,
            seed=config.training.seed,
            dtype=settings.dtype,
            attn_implementation=loaded_with,
            empty=empty,
        )
    else:
        model = load_model(
            settings.name_or_path,
            dtype=settings.dtype,
            attn_implementation=loaded_with,
            trust_remote_code=trust_remote_code,
            empty=empty,
        )
    fit_vocabulary(model, tokenizer, mask_id)
    make_bidirectional(model.config, mask_token_id=mask_id)
    _check_context(model, config)
    components = run_components(config, registry)
    model.config.mask_token = tokenizer.mask_token
    model.config.attention_bias_component = unstructure_component(
        registry, "attention_bias", bias_at_end(components.attention_bias)
    )
    model.config.block_length = config.training.block_attention.block_length
    model.config.block_origin = _block_origin(config)
    _warn_about_shift(model, config)
    model.config.logit_shift = settings.logit_shift
    noise_type = components.noise_type
    # Sampling starts from masks: it is enough that training showed some.
    if config.training.mode != "pretrain":
        model.config.prompt_rendering = "chat_template" if config.dataset.chat_template else "plain"
    model.config.noise_shows_mask = IS_ABSORBING.of(noise_type) or MAY_WRITE_MASK.of(noise_type)
    return model


def _block_origin(config: RunConfig) -> str:
    """From where the sampler counts blocks: as training did. A loaded model may have been trained otherwise."""
    blocks = config.training.block_attention
    if not blocks.enabled:
        return "answer"
    return "document" if config.training.mode == "pretrain" else blocks.origin


def _warn_about_shift(model: PreTrainedModel, config: RunConfig) -> None:
    """The model goes on training either way, but it loses what it learned of where its predictions belong."""
    trained_with = getattr(model.config, "logit_shift", None)
    if trained_with is not None and bool(trained_with) != config.model.logit_shift:
        logger.warning(
            "model.logit_shift: %s was trained with %s, this run says %s",
            config.model.name_or_path,
            str(trained_with).lower(),
            str(config.model.logit_shift).lower(),
        )


def build_weights(config: RunConfig, model: PreTrainedModel, facts: Mapping[str, object] | None = None) -> Weights:
    """What of the model is trained and saved: all of it, or adapters, which are put into it here."""
    if config.lora is None:
        return WholeWeights(model)
    base, _ = resolve_source(str(config.model.name_or_path))
    return add_adapters(model, config.lora, base=base, seed=config.training.seed, facts=facts)


def _check_context(model: PreTrainedModel, config: RunConfig) -> None:
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if context is not None and config.dataset.max_length > context:
        raise UserInputError(
            f"dataset.max_length: {config.dataset.max_length} is more than the model's context of {context} "
            f"(max_position_embeddings); set it to at most {context}"
        )


def build_vocabulary(tokenizer: PreTrainedTokenizerBase, mask_id: int) -> Vocabulary:
    """What the forward process knows of the tokenizer."""
    return Vocabulary(
        size=len(tokenizer),
        mask_id=mask_id,
        special_ids=torch.tensor(special_ids(tokenizer)),
        starts_word=word_start_table(tokenizer),
    )


def build_objective(
    model: PreTrainedModel,
    config: RunConfig,
    components: RunComponents,
    vocabulary: Vocabulary,
    *,
    cls: type[Objective] = DiffusionObjective,  # type: ignore[assignment]  # mypy#3737
    law: SamplingLaw | None = None,
) -> Objective:
    """The module that is trained. It shares its parameters with ``model``."""
    parts = split(model)
    training = config.training
    text_config = model.config.get_text_config()
    if training.gradient_checkpointing:
        # transformers 5 calls it activation checkpointing; its first releases still had the old name only.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable()
    if training.compile:
        # One by one: they share one graph, and a sharded layer is gathered before its own runs. The names stay.
        for layer in decoder_layers(model, wanted_by="training.compile"):
            layer.compile()
    return cls(
        parts.body,
        parts.head,
        loss=components.loss,
        vocabulary=vocabulary,
        attention=Attention(
            bias=components.attention_bias,
            block_length=training.block_attention.block_length,
            num_layers=int(text_config.num_hidden_layers),
            implementation=text_config._attn_implementation,
            padded_length=padding_of(
                text_config._attn_implementation,
                compiles=training.compile,
                max_length=config.dataset.max_length * num_copies(components),
            ),
            has_causal_copy=NEEDS_CAUSAL_COPY.of(components.loss),
        ),
        logit_shift=config.model.logit_shift,
        compiles=training.compile,
        law=law,
    )


def num_copies(components: RunComponents) -> int:
    """How often the tokens of a row go through the body: noisy, clean, and clean and causal."""
    return 1 + NEEDS_CLEAN_COPY.of(components.attention_bias) + NEEDS_CAUSAL_COPY.of(components.loss)


def choose_attention(
    config: RunConfig, model: PreTrainedModel, components: RunComponents, device: torch.device
) -> None:
    """Let ``model`` attend as it is best, or told to, on ``device``.

    Raises:
        UserInputError: flex_attention where it cannot train.
    """
    implementation = choose_implementation(
        config.model.attn_implementation,
        model,
        components.attention_bias,
        isolates=isolates_documents(config) or NEEDS_CAUSAL_COPY.of(components.loss),
        device=device,
    )
    if implementation != model.config._attn_implementation:
        use_attention(model, implementation)


def build_forward_process(
    config: RunConfig,
    components: RunComponents,
    registry: Registry,
    vocabulary: Vocabulary,
    num_steps: int | None = None,
) -> ForwardProcess:
    """The noise of training, over ``num_steps`` steps if that is known.

    Raises:
        UserInputError: The schedule gives no mask rates.
    """
    noise = config.training.active_noise
    section = "sft_noise" if config.training.mode == "sft" else "noise"
    refuse_broken_schedule(noise.schedule, components.names["noise_schedule"], f"training.{section}.schedule")
    return ForwardProcess(
        schedule=noise.schedule,
        masking=components.masking,
        noise_type=components.noise_type,
        sample_times=TIME_SAMPLERS[noise.t_sampling],
        time_unit=TIME_UNITS[noise.t_per],
        min_masking_rate=noise.min_masking_rate,
        region_masking=registry.resolve("masking", "contiguous").cls(),
        region_probability=noise.mask_contiguous_region_prob,
        reweight_cap=noise.reweight_cap,
        block_length=config.training.block_attention.block_length,
        vocabulary=vocabulary,
        seed=config.training.seed,
        blocks_are_separate=blocks_are_separate(components.attention_bias),
        num_steps=num_steps,
        num_draws=NUM_DRAWS.of(components.loss),
    )


def build_random_length(config: RunConfig) -> RandomLength:
    """The truncation of a step's rows: in pre-training only."""
    training = config.training
    return RandomLength(
        probability=training.noise.random_length_prob if training.mode == "pretrain" else 0.0,
        max_length=config.dataset.max_length,
        seed=training.seed,
    )


def for_evaluation(process: ForwardProcess) -> ForwardProcess:
    """The noise of evaluation: with draws of its own that never change, and times on a grid.

    Where positions are corrupted independently of each other at a rate that what is noised together shares, every
    number of masks is asked for alike, whatever the schedule. Any other noise is that of training.
    """
    process = attrs.evolve(process, sample_times=grid_times, seed=process.seed ^ EVALUATION_SEED, num_steps=None)
    unit, is_mixed = process.time_unit, process.region_probability > 0
    shares_rate = unit.one_per_row or (unit is TIME_UNITS["block"] and process.blocks_are_separate)
    if not IS_INDEPENDENT.of(process.masking) or is_mixed or not shares_rate:
        return process
    return attrs.evolve(
        process,
        schedule=EveryRate(),
        min_masking_rate=0.0,
        sample_times=jittered_grid_times,
        exact_counts=ExactCounts(unit),
    )
