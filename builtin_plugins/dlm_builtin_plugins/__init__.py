"""The built-in plugin: each hook offers the COMPONENTS that the package of its kind lists (losses, schedules, ...)."""

from collections.abc import Mapping

from dlm_builtin_plugins import (
    advantages,
    attention_biases,
    losses,
    maskings,
    metrics,
    noise_types,
    optimizers,
    remasking,
    rewards,
    schedules,
)
from dlm_plugins import (
    Advantage,
    AttentionBias,
    Loss,
    Masking,
    Metric,
    NoiseSchedule,
    NoiseType,
    OptimizerFactory,
    Remasker,
    Reward,
    hookimpl,
)


@hookimpl
def dlm_losses() -> Mapping[str, type[Loss]]:
    """Losses by name."""
    return losses.COMPONENTS


@hookimpl
def dlm_noise_schedules() -> Mapping[str, type[NoiseSchedule]]:
    """Noise schedules by name."""
    return schedules.COMPONENTS


@hookimpl
def dlm_maskings() -> Mapping[str, type[Masking]]:
    """Maskings by name."""
    return maskings.COMPONENTS


@hookimpl
def dlm_noise_types() -> Mapping[str, type[NoiseType]]:
    """Noise types by name."""
    return noise_types.COMPONENTS


@hookimpl
def dlm_attention_biases() -> Mapping[str, type[AttentionBias]]:
    """Attention biases by name."""
    return attention_biases.COMPONENTS


@hookimpl
def dlm_remaskers() -> Mapping[str, type[Remasker]]:
    """Remasking rules by name."""
    return remasking.COMPONENTS


@hookimpl
def dlm_metrics() -> Mapping[str, type[Metric]]:
    """Metrics by name."""
    return metrics.COMPONENTS


@hookimpl
def dlm_rewards() -> Mapping[str, type[Reward]]:
    """Rewards by name."""
    return rewards.COMPONENTS


@hookimpl
def dlm_advantages() -> Mapping[str, type[Advantage]]:
    """Advantages by name."""
    return advantages.COMPONENTS


@hookimpl
def dlm_optimizers() -> Mapping[str, type[OptimizerFactory]]:
    """Optimizers by name."""
    return optimizers.COMPONENTS
