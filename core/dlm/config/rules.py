"""Rules between keys of the run file: contradictions, and settings that would have no effect."""

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, TypeAlias

import attrs
import torch
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType

from dlm.config.run_config import EvaluationConfig, NoiseConfig, RunConfig, TokenizerConfig
from dlm_plugins import NoiseSchedule
from dlm_plugins.errors import Problem
from dlm_plugins.masking import IS_INDEPENDENT
from dlm_plugins.noise_type import IS_ABSORBING, MAY_WRITE_MASK

Rule: TypeAlias = Callable[[RunConfig], Iterator[Problem]]

_ROUNDING = 1e-6
"""Mask rates are float32."""


def duration(config: RunConfig) -> Iterator[Problem]:
    """Steps or epochs."""
    training = config.training
    if training.max_steps is not None and training.num_epochs is not None:
        yield Problem("training.num_epochs", "give max_steps or num_epochs, not both; set the other to null")
    if training.max_steps is None and training.num_epochs is None:
        yield Problem("training.max_steps", "required, unless num_epochs is given")
    if config.dataset.streaming and training.num_epochs is not None:
        yield Problem("training.num_epochs", "a stream has no known length; give max_steps instead")


def warmup(config: RunConfig) -> Iterator[Problem]:
    """A ratio or a number of steps."""
    if config.optim.warmup_steps is not None and config.optim.warmup_ratio != 0:
        yield Problem("optim.warmup_steps", "give warmup_ratio or warmup_steps, not both")


def held_out(config: RunConfig) -> Iterator[Problem]:
    """A split or a fraction."""
    evaluation = config.evaluation
    if evaluation.split is not None and evaluation.fraction != attrs.fields(EvaluationConfig).fraction.default:
        yield Problem("evaluation.fraction", "has no effect beside evaluation.split; remove one of them")


def model_origin(config: RunConfig) -> Iterator[Problem]:
    """A pretrained model or one from scratch."""
    model = config.model
    if model.name_or_path is None and model.config is None:
        yield Problem("model.name_or_path", "required, unless `config` describes a model from scratch")
    if model.name_or_path is not None and model.config is not None:
        yield Problem("model.config", "describes a model from scratch, so model.name_or_path must be null")
    if model.config is not None and model.name_or_path is None and model.tokenizer is None:
        yield Problem("model.tokenizer", "required for a model from scratch: a name, a folder or {train: {}}")
    if model.name_or_path is not None and isinstance(model.tokenizer, TokenizerConfig):
        yield Problem("model.tokenizer", "a new tokenizer does not fit a pretrained model; train one from scratch only")


def base_of_adapters(config: RunConfig) -> Iterator[Problem]:
    """Adapters belong to a model that exists without them."""
    if config.lora is not None and config.model.name_or_path is None:
        yield Problem("lora", "adapters need a pretrained model to go with: set model.name_or_path, or remove lora")


def precision(config: RunConfig) -> Iterator[Problem]:
    """Loss scaling needs master weights."""
    if config.training.mixed_precision == "fp16" and config.model.dtype != "float32":
        yield Problem("training.mixed_precision", f"fp16 needs model.dtype float32, not {config.model.dtype}")
    if config.training.mixed_precision == "bf16" and config.model.dtype == "float64":
        yield Problem(
            "training.mixed_precision", "has no effect on model.dtype float64, which is never cast; remove it"
        )


def mixture(config: RunConfig) -> Iterator[Problem]:
    """One data set, or several, each once."""
    name, sources = config.dataset.name, config.dataset.mixture
    if sources is None:
        if name is None:
            yield Problem("dataset.name", "required, unless `mixture` names several data sets")
        return
    if name is not None:
        yield Problem("dataset.mixture", "give name or mixture, not both; set the other to null")
    if config.dataset.streaming:
        yield Problem("dataset.mixture", "reads its data sets first; set dataset.streaming to false, or give a name")
    twice = next((name for name, count in Counter(each.name for each in sources).items() if count > 1), None)
    if twice is not None:
        yield Problem("dataset.mixture", f"{twice!r} is named twice; add up its weights")
    if math.isinf(sum(each.weight for each in sources)):
        yield Problem("dataset.mixture", "the weights add up to more than a number can hold; make all of them smaller")


def streaming(config: RunConfig) -> Iterator[Problem]:
    """A stream is read as it goes: nothing that wants all of it first."""
    dataset, evaluation = config.dataset, config.evaluation
    if not dataset.streaming:
        return
    if config.training.mode != "pretrain":
        yield Problem("dataset.streaming", "fine-tuning reads its conversations first; set it to false")
    if evaluation.do_eval_loss and evaluation.split is None:
        message = "a stream has no fraction to hold out; name a split, or set evaluation.do_eval_loss to false"
        yield Problem("evaluation.split", message)


def lengths(config: RunConfig) -> Iterator[Problem]:
    """Blocks fit into rows and canvases."""
    blocks, sampling = config.training.block_attention, config.sampling
    if blocks.enabled and blocks.block_length > config.dataset.max_length:
        message = f"must be at most dataset.max_length ({config.dataset.max_length}), not {blocks.block_length}"
        yield Problem("training.block_attention.block_length", message)
    # A canvas of no tokens of its own is for infilling; its blocks lie in the given text.
    if sampling.gen_length and sampling.block_length is not None and sampling.block_length > sampling.gen_length:
        message = f"must be at most sampling.gen_length ({sampling.gen_length}), not {sampling.block_length}"
        yield Problem("sampling.block_length", message)


def without_effect(config: RunConfig) -> Iterator[Problem]:
    """Settings that the rest of the run file makes idle."""
    sft, dataset = config.training.mode == "sft", config.dataset
    if dataset.isolate_documents and not dataset.pack and config.training.mode == "pretrain":
        yield Problem("dataset.isolate_documents", "has no effect without dataset.pack: every row is one document")
    if sft and dataset.format == "prompt_response" and dataset.train_on == "last_answer":
        yield Problem("dataset.train_on", "has no effect with format prompt_response, where a row has one answer")
    if config.training.mode == "preference" and dataset.pack:
        yield Problem("dataset.pack", "the answers of a pair stand alone in their rows; set it to false")
    default = attrs.fields(type(config.training.sft_noise)).random_length_prob.default
    if sft and config.training.sft_noise.random_length_prob != default:
        message = "has no effect in fine-tuning, where rows are never cut at random; remove it"
        yield Problem("training.sft_noise.random_length_prob", message)


def learning_from_rewards(config: RunConfig) -> Iterator[Problem]:
    """Mode rl has rules of its own."""
    if config.training.mode == "rl":
        from dlm.config import rl_rules  # only where there are rollouts

        yield from rl_rules.learning_from_rewards(config)


def noise_bounds(config: RunConfig) -> Iterator[Problem]:
    """Bounds of the mask rate p and of the weight 1/p that nothing reaches."""
    noise = config.training.active_noise
    least, cap, lowest = noise.min_masking_rate, noise.reweight_cap, _lowest_rate(noise.schedule)
    if least not in (0, attrs.fields(NoiseConfig).min_masking_rate.default) and least <= lowest:
        message = f"has no effect: the schedule never falls below {lowest:.4g}; raise it above that, or remove it"
        yield Problem(f"{_noise_section(config)}.min_masking_rate", message)
    # A masking by other than single coins rounds p to what its spans allow.
    is_exact = IS_INDEPENDENT.of(noise.masking) and noise.mask_contiguous_region_prob == 0
    least = max(least, lowest)
    if cap is not None and is_exact and cap * least >= 1 - _ROUNDING:
        message = f"has no effect: p is at least {least:.4g}, and 1/p at most {1 / least:.6g}; lower it, or remove it"
        yield Problem(f"{_noise_section(config)}.reweight_cap", message)


def trackers(config: RunConfig) -> Iterator[Problem]:
    """Trackers that accelerate knows, and whose package is there: it would pass over the others in silence."""
    known, installed = [str(each) for each in LoggerType.list()], [str(each) for each in get_available_trackers()]
    for name in config.logging.trackers:
        if name not in known:
            yield Problem("logging.trackers", f"unknown tracker {name!r}; known are {', '.join(known)}")
        elif name not in installed and name != "all":
            message = f"{name} is not installed here; install its package (pip install {name}), or remove it"
            yield Problem("logging.trackers", message)


def samples(config: RunConfig) -> Iterator[Problem]:
    """Samples come from masks, which the model must have seen."""
    noise_type = config.training.active_noise.noise_type
    if config.evaluation.sample_prompts and not (IS_ABSORBING.of(noise_type) or MAY_WRITE_MASK.of(noise_type)):
        message = "this noise type never shows the mask token, so that the model cannot be sampled; remove the prompts"
        yield Problem("evaluation.sample_prompts", message)


RULES: tuple[tuple[Rule, tuple[str, ...]], ...] = (
    (duration, ("training.max_steps", "training.num_epochs", "dataset.streaming")),
    (mixture, ("dataset.name", "dataset.mixture", "dataset.streaming")),
    (warmup, ("optim.warmup_ratio", "optim.warmup_steps")),
    (held_out, ("evaluation.split", "evaluation.fraction")),
    (base_of_adapters, ("lora", "model.name_or_path")),
    (model_origin, ("model.name_or_path", "model.config", "model.tokenizer")),
    (precision, ("training.mixed_precision", "model.dtype")),
    (
        lengths,
        (
            "training.block_attention.block_length",
            "dataset.max_length",
            "sampling.gen_length",
            "sampling.block_length",
        ),
    ),
    (trackers, ("logging.trackers",)),
    (
        samples,
        (
            "training.mode",
            "training.noise.noise_type",
            "training.sft_noise.noise_type",
            "evaluation.sample_prompts",
        ),
    ),
    (
        streaming,
        (
            "dataset.streaming",
            "training.mode",
            "evaluation.do_eval_loss",
            "evaluation.split",
        ),
    ),
    (learning_from_rewards, ("training", "rl", "sampling", "dataset.mixture", "dataset.pack", "dataset.max_length")),
    (noise_bounds, ("training.mode", "training.noise", "training.sft_noise")),
    (without_effect, ("training.mode", "dataset.pack", "training.sft_noise.random_length_prob")),
)
"""Each rule with the keys it looks at: it is not asked when one of them is wrong already."""

_KEYS_OF_MODE: dict[str, tuple[str, ...]] = {
    "pretrain": (
        "dataset.text_column",
        "dataset.isolate_documents",
        "training.noise",
        "training.noise.random_length_prob",
    ),
    "sft": (
        "dataset.format",
        "dataset.train_on",
        "dataset.eos_padding",
        "dataset.chat_template",
        "dataset.reasoning",
        "dataset.long_rows",
        "dataset.on_bad_row",
        "training.sft_noise",
    ),
    "preference": (
        "dataset.eos_padding",
        "dataset.chat_template",
        "dataset.reasoning",
        "dataset.long_rows",
        "dataset.on_bad_row",
        "training.noise",
        "preference",
    ),
    "rl": (
        "dataset.format",
        "dataset.chat_template",
        "dataset.long_rows",
        "dataset.on_bad_row",
        "training.noise",
        "rl",
    ),
}
"""Keys that not every mode reads."""


def idle_notes(config: RunConfig, defaults: RunConfig) -> Iterator[str]:
    """Keys that differ from their defaults and that a switch makes idle: allowed, so that one file serves with the
    switch on and off, but told.
    """
    for reason, keys in _idle(config):
        paths = dict.fromkeys(path for key in keys for path in _differing(_at(config, key), _at(defaults, key), key))
        if paths:
            yield f"{reason}; not used: {', '.join(paths)}"
    if config.training.mode == "rl":
        from dlm.config import rl_rules  # only where there are rollouts

        yield from rl_rules.rl_notes(config)


def _idle(config: RunConfig) -> Iterator[tuple[str, tuple[str, ...]]]:
    mode, evaluation = config.training.mode, config.evaluation
    others = dict.fromkeys(key for keys in _KEYS_OF_MODE.values() for key in keys)
    yield f"training.mode is {mode}", tuple(key for key in others if key not in _KEYS_OF_MODE[mode])
    if not config.dataset.streaming:
        yield "dataset.streaming is false", ("dataset.shuffle_buffer",)
    if not evaluation.do_eval_loss:
        keys = ("evaluation.fraction", "evaluation.split", "evaluation.max_rows")
        # Prompts are continued whenever there would be an evaluation.
        every = () if evaluation.sample_prompts else ("evaluation.eval_every_steps",)
        yield "evaluation.do_eval_loss is false", keys + every
    if config.training.active_noise.mask_contiguous_region_prob == 1:
        section = _noise_section(config)
        yield f"{section}.mask_contiguous_region_prob is 1", (f"{section}.masking",)


def _noise_section(config: RunConfig) -> str:
    return "training.sft_noise" if config.training.mode == "sft" else "training.noise"


def _lowest_rate(schedule: NoiseSchedule) -> float:
    """p(0); 0 where a broken schedule has none, which is reported when it is tried."""
    with suppress(Exception):
        return float(schedule.mask_rate(torch.zeros(1)))
    return 0.0


def _at(config: RunConfig, key: str) -> Any:
    return functools.reduce(getattr, key.split("."), config)


def _differing(value: Any, default: Any, path: str) -> Iterator[str]:
    if type(value) is type(default) and attrs.has(type(value)) and path.endswith("noise"):
        for field in attrs.fields(type(value)):
            yield from _differing(getattr(value, field.name), getattr(default, field.name), f"{path}.{field.name}")
    elif value != default:
        yield path
