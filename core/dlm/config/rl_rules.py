"""Rules of learning from rewards (mode rl): what gives no gradient or a wrong one, and what is only warned of."""

from collections.abc import Iterator

import attrs

from dlm.config.rl_section import ValueConfig
from dlm.config.run_config import RunConfig
from dlm.config.sampling_settings import APPROXIMATE_CACHES, CacheOptions
from dlm_plugins.advantage import NEEDS_VALUES
from dlm_plugins.attention_bias import bias_at_end
from dlm_plugins.errors import Problem
from dlm_plugins.loss import NEEDS_REFERENCE
from dlm_plugins.masking import NEEDS_TRACE
from dlm_plugins.noise_type import IS_ABSORBING
from dlm_plugins.remasking import FOLLOWS_PREDICTIONS, TAKES_BACK


def learning_from_rewards(config: RunConfig) -> Iterator[Problem]:
    """What mode rl needs, and what it cannot be right with."""
    yield from _rollouts(config)
    yield from _attention(config)
    yield from _estimate(config)
    yield from _groups(config)
    yield from _lengths(config)


def _rollouts(config: RunConfig) -> Iterator[Problem]:
    """The law of the rollouts is the one that is trained."""
    sampling = config.sampling
    if sampling.temperature == 0:
        message = "0 writes the same answer every time, so that there is nothing to compare; set it to 1.0"
        yield Problem("sampling.temperature", message)
    if sampling.cfg_scale > 0:
        message = "guided rollouts follow another law than the one that is trained; set it to 0"
        yield Problem("sampling.cfg_scale", message)
    name = sampling.cache.name if isinstance(sampling.cache, CacheOptions) else sampling.cache
    if name in APPROXIMATE_CACHES:
        message = (
            f"{name} is approximate: rollouts would follow another law than the one that is trained; set it to auto"
        )
        yield Problem("sampling.cache", message)
    if sampling.attention_bias is not None:
        yield Problem("sampling.attention_bias", "rollouts attend as training does; leave it null")
    if sampling.mask_id is not None:
        yield Problem("sampling.mask_id", "rollouts start from the mask of training; leave it null")


def _attention(config: RunConfig) -> Iterator[Problem]:
    """Training sees what the sampler saw."""
    blocks = config.training.block_attention
    if blocks.enabled and bias_at_end(blocks.bias) != blocks.bias:
        message = f"{type(blocks.bias).__name__} changes over a run, and rollouts are sampled as it ends: they would "
        message += "follow another law than the one that is trained; anneal in fine-tuning, and set enabled to false"
        yield Problem("training.block_attention.bias", message)


def _estimate(config: RunConfig) -> Iterator[Problem]:
    """Maskings, losses and what they need."""
    noise, loss, rl = config.training.noise, config.training.loss_impl, config.rl
    if NEEDS_TRACE.of(noise.masking) and TAKES_BACK.of(config.sampling.remasking):
        message = "takes back what it wrote, and the masking needs one step at which each token was written"
        yield Problem("sampling.remasking", f"{message}; choose random or low_confidence, or another masking")
    if NEEDS_TRACE.of(noise.masking) and noise.reweight_cap is not None:
        yield Problem("training.noise.reweight_cap", "would bias the masking's estimate; set it to null")
    if noise.mask_contiguous_region_prob > 0:
        message = "rollouts are scored as the masking says; set it to 0"
        yield Problem("training.noise.mask_contiguous_region_prob", message)
    if not IS_ABSORBING.of(noise.noise_type):
        yield Problem("training.noise.noise_type", "rollouts are written over masks; set it to mask")
    if NEEDS_REFERENCE.of(loss) and rl.reference is None:
        message = "the loss keeps to a reference (kl, beta): set it to start or to a folder, or beta to 0"
        yield Problem("rl.reference", message)
    if rl.reference is not None and not NEEDS_REFERENCE.of(loss):
        yield Problem(
            "rl.reference", "has no effect: the loss has no reference to keep to; set kl and beta, or remove it"
        )


def _groups(config: RunConfig) -> Iterator[Problem]:
    """Rewards, and what they are compared with."""
    rl = config.rl
    if not rl.rewards:
        yield Problem("rl.rewards", "mode rl needs at least one: [{name: exact, column: answer}]")
    yield from _values(config)
    if rl.group_size == 1 and not NEEDS_VALUES.of(rl.advantage):
        message = "an answer is compared with the others to its prompt, and there is none; set it to 2 or more"
        yield Problem("rl.group_size", message)
    if config.dataset.mixture is not None:
        yield Problem("dataset.mixture", "mode rl takes its prompts from one data set; give its name")
    if config.dataset.pack:
        yield Problem("dataset.pack", "prompts stand alone in their rows; set it to false")


def _values(config: RunConfig) -> Iterator[Problem]:
    """A value model, and what reads its values."""
    rl = config.rl
    if NEEDS_VALUES.of(rl.advantage) and rl.value is None:
        yield Problem("rl.advantage", "needs the values of a value model: set rl.value to {}, or choose group")
    if rl.value is None:
        return
    if not NEEDS_VALUES.of(rl.advantage):
        yield Problem("rl.value", "has no effect: the advantage reads no values; set that to value, or remove this")
    if config.lora is not None:
        yield Problem("rl.value", "is a whole copy of the model beside the adapters; remove lora, or set it to null")
    if config.training.mixed_precision == "fp16":
        yield Problem("rl.value", "does not go with fp16, whose loss is scaled for one model alone; use bf16, or no")
    if rl.value.updates == 1 and rl.value.clip != attrs.fields(ValueConfig).clip.default:
        message = "has no effect with one update on a rollout, before which nothing has moved; set updates to 2 or more"
        yield Problem("rl.value.clip", f"{message}, or remove it")


def _lengths(config: RunConfig) -> Iterator[Problem]:
    """Answers fit into rows, and blocks are those of training."""
    sampling, blocks, longest = config.sampling, config.training.block_attention, config.dataset.max_length
    if sampling.gen_length is None or sampling.gen_length == 0:
        yield Problem("sampling.gen_length", "mode rl needs the length of the answers")
    elif sampling.gen_length >= longest:
        message = f"{sampling.gen_length} leaves no room for a prompt within dataset.max_length ({longest})"
        yield Problem("sampling.gen_length", f"{message}; lower it, or raise that")
    if blocks.enabled and sampling.block_length not in (None, blocks.block_length):
        message = f"rollouts have the blocks of training ({blocks.block_length}); leave it null"
        yield Problem("sampling.block_length", message)
    steps = [stage.step for stage in config.rl.curriculum]
    if steps != sorted(set(steps)) or (steps and steps[0] != 0):
        yield Problem("rl.curriculum", "its stages must start at step 0, and each later than the one before")
    for number, stage in enumerate(config.rl.curriculum):
        if sampling.gen_length is not None and stage.gen_length > sampling.gen_length:
            message = f"must be at most sampling.gen_length ({sampling.gen_length}), not {stage.gen_length}"
            yield Problem(f"rl.curriculum[{number}].gen_length", message)
        if stage.block_length is not None and stage.block_length > stage.gen_length:
            message = f"must be at most its gen_length ({stage.gen_length}), not {stage.block_length}"
            yield Problem(f"rl.curriculum[{number}].block_length", message)
        if stage.block_length not in (None, blocks.block_length) and blocks.enabled:
            message = f"rollouts have the blocks of training ({blocks.block_length}); leave it null"
            yield Problem(f"rl.curriculum[{number}].block_length", message)


def rl_notes(config: RunConfig) -> Iterator[str]:
    """What is allowed in mode rl, and known to go wrong or to be inexact."""
    masking, has_trace = config.training.noise.masking, NEEDS_TRACE.of(config.training.noise.masking)
    if not has_trace and not NEEDS_REFERENCE.of(config.training.loss_impl):
        yield (
            f"training.noise.masking: {type(masking).__name__} scores answers in contexts that were never sampled; "
            "without a reference (kl, beta) such runs collapsed: watch reward and grad_norm, or choose trace"
        )
    if has_trace and (FOLLOWS_PREDICTIONS.of(config.sampling.remasking) or config.sampling.eos == "late"):
        yield (
            "sampling.remasking: the order of the rollouts follows the model, which the trace does not score: a mild "
            "bias (docs/rl.md); random has none, unless eos is late"
        )
