"""One component of every kind, none of which is built in."""

from collections.abc import Mapping

from dlm_acme.annealed_confidence import AnnealedConfidence
from dlm_acme.clipped import ClippedSchedule
from dlm_acme.focal import FocalLoss
from dlm_acme.lion import LionFactory
from dlm_acme.mixed import MixedNoise
from dlm_acme.ranked import RankedAdvantage
from dlm_acme.rouge_l import RougeL
from dlm_acme.sliding_window import SlidingWindow
from dlm_acme.whole_word import WholeWordMasking
from dlm_acme.word_overlap import WordOverlap
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
    return {"focal": FocalLoss}


@hookimpl
def dlm_noise_schedules() -> Mapping[str, type[NoiseSchedule]]:
    """Noise schedules by name."""
    return {"clipped": ClippedSchedule}


@hookimpl
def dlm_maskings() -> Mapping[str, type[Masking]]:
    """Maskings by name."""
    return {"whole_word": WholeWordMasking}


@hookimpl
def dlm_noise_types() -> Mapping[str, type[NoiseType]]:
    """Noise types by name."""
    return {"mixed": MixedNoise}


@hookimpl
def dlm_attention_biases() -> Mapping[str, type[AttentionBias]]:
    """Attention biases by name."""
    return {"sliding_window": SlidingWindow}


@hookimpl
def dlm_remaskers() -> Mapping[str, type[Remasker]]:
    """Remasking rules by name."""
    return {"annealed_confidence": AnnealedConfidence}


@hookimpl
def dlm_metrics() -> Mapping[str, type[Metric]]:
    """Metrics by name."""
    return {"rouge_l": RougeL}


@hookimpl
def dlm_rewards() -> Mapping[str, type[Reward]]:
    """Rewards by name."""
    return {"word_overlap": WordOverlap}


@hookimpl
def dlm_advantages() -> Mapping[str, type[Advantage]]:
    """Advantages by name."""
    return {"ranked": RankedAdvantage}


@hookimpl
def dlm_optimizers() -> Mapping[str, type[OptimizerFactory]]:
    """Optimizers by name."""
    return {"lion": LionFactory}
