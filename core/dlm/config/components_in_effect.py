"""Which components (plugins) of a run are in effect together, and whether they refuse each other or the run."""

from collections.abc import Iterator

import attrs

from dlm.config.run_config import RunConfig
from dlm_plugins import KINDS, AttentionBias, ChecksRun, RunComponents
from dlm_plugins.attention_bias import BLOCKS_ARE_INDEPENDENT, NEEDS_CLEAN_COPY
from dlm_plugins.errors import Problem
from dlm_plugins.loss import NEEDS_ADVANTAGE, NEEDS_CAUSAL_COPY, NEEDS_PAIRS
from dlm_plugins.masking import NEEDS_TRACE
from dlm_plugins.problems import reason_of
from dlm_plugins.registry import Registry
from dlm_plugins.structuring import structure_component

FULL_ATTENTION = "full"


def run_components(config: RunConfig, registry: Registry) -> RunComponents:
    """The components that are in effect: the noise of the run's mode, full attention unless blocks are enabled."""
    training, noise = config.training, config.training.active_noise
    blocks = training.block_attention
    bias = blocks.bias if blocks.enabled else structure_component(registry, "attention_bias", FULL_ATTENTION)
    run = RunComponents(
        mode=training.mode,
        loss=training.loss_impl,
        noise_schedule=noise.schedule,
        masking=noise.masking,
        noise_type=noise.noise_type,
        attention_bias=bias,
        names={},
        min_masking_rate=noise.min_masking_rate,
        reweight_cap=noise.reweight_cap,
        mask_contiguous_region_prob=noise.mask_contiguous_region_prob,
        t_per=noise.t_per,
    )
    fields = [field.name for field in attrs.fields(RunComponents) if field.name in KINDS]
    names = {kind: registry.entry_of(getattr(run, kind)).qualified_name for kind in fields}
    return attrs.evolve(run, names=names)


def reason_against_shift(bias: AttentionBias) -> str | None:
    """Why ``logit_shift`` cannot go with ``bias``, if it cannot.

    The first position of a block would have to be predicted from the block before it, which it must not see. The last
    given token is no way out: one hidden state would have to predict the first token of every block.
    """
    if not BLOCKS_ARE_INDEPENDENT.of(bias):
        return None
    return (
        f"does not go with {type(bias).__name__}: the first token of a block would be predicted from the block before "
        "it, which it must not see"
    )


def _against_shift(trained: AttentionBias, sampled: AttentionBias) -> Iterator[Problem]:
    reason = reason_against_shift(trained)
    if reason is not None:
        yield Problem("model.logit_shift", f"{reason}; set it to false, or the bias to block_causal")
    reason = reason_against_shift(sampled)
    if reason is not None and sampled is not trained:
        yield Problem("sampling.attention_bias", f"model.logit_shift {reason}; leave it null")


def _without_trace(run: RunComponents) -> Iterator[Problem]:
    if run.mode == "pretrain" and NEEDS_TRACE.of(run.masking):
        message = f"{run.names['masking']} needs the step at which each token was written; texts do not have it"
        yield Problem(
            "training.noise.masking", f"{message}: fine-tune on rows with step_map, or choose another masking"
        )


def _without_rewards(run: RunComponents) -> Iterator[Problem]:
    if NEEDS_ADVANTAGE.of(run.loss) and run.mode != "rl":
        message = f"{run.names['loss']} learns from rewards, and mode {run.mode} has none: set training.mode to rl"
        yield Problem("training.loss_impl", f"{message}, or choose another loss")
    if run.mode == "rl" and not NEEDS_ADVANTAGE.of(run.loss):
        message = f"{run.names['loss']} does not learn from rewards, as mode rl does: choose policy_clip"
        yield Problem("training.loss_impl", f"{message}, policy_weighted or another loss that claims needs_advantage")


def _without_pairs(run: RunComponents) -> Iterator[Problem]:
    needs = NEEDS_PAIRS.of(run.loss)
    if needs and run.mode != "preference":
        message = f"{run.names['loss']} learns from pairs of answers, and mode {run.mode} has none"
        yield Problem("training.loss_impl", f"{message}: set training.mode to preference, or choose another loss")
    if run.mode == "preference" and not needs:
        message = f"{run.names['loss']} does not learn from pairs of answers, as mode preference does"
        yield Problem("training.loss_impl", f"{message}: choose dpo, or another loss that claims needs_pairs")


def _without_shift(config: RunConfig, run: RunComponents) -> Iterator[Problem]:
    if NEEDS_CAUSAL_COPY.of(run.loss) and not config.model.logit_shift:
        message = f"{run.names['loss']} predicts next tokens too, each from the position before it"
        yield Problem("training.loss_impl", f"{message}: set model.logit_shift to true, or choose another loss")


def _against_origin(config: RunConfig, bias: AttentionBias) -> Iterator[Problem]:
    """A prompt cut into blocks must still be seen by the blocks after it, clean."""
    blocks = config.training.block_attention
    counts = config.training.mode != "pretrain" and blocks.enabled and blocks.origin == "document"
    if counts and not NEEDS_CLEAN_COPY.of(bias):
        message = "document cuts the prompt into blocks, which later blocks see under block_causal only; set bias to it"
        yield Problem("training.block_attention.origin", message)


def incompatibilities(config: RunConfig, registry: Registry) -> Iterator[Problem]:
    """What the components refuse, each at its own key."""
    run = run_components(config, registry)
    yield from _without_trace(run)
    yield from _without_rewards(run)
    yield from _without_pairs(run)
    yield from _without_shift(config, run)
    if config.model.logit_shift:
        yield from _against_shift(run.attention_bias, config.sampling.attention_bias or run.attention_bias)
    yield from _against_origin(config, run.attention_bias)
    in_effect = {kind: getattr(run, kind) for kind in run.names}
    in_effect |= {"remasking": config.sampling.remasking, "optimizer": config.optim.optimizer}
    for kind, component in in_effect.items():
        if not isinstance(component, ChecksRun):
            continue
        path = KINDS[kind].key
        if config.training.mode == "sft":
            path = path.replace("training.noise.", "training.sft_noise.")
        try:
            reasons = [" ".join(str(reason).split()) for reason in component.incompatibilities(run)]
        except Exception as error:
            reasons = [f"{registry.entry_of(component).qualified_name} failed to check the run: {reason_of(error)}"]
        yield from (Problem(path, reason) for reason in reasons)
