"""The built-in components: ordinary plugins that implement the whole specification."""

from collections.abc import Mapping

from dlm_builtin_plugins.attention_biases.alternating import AlternatingAttention
from dlm_builtin_plugins.attention_biases.block import BlockAttention
from dlm_builtin_plugins.attention_biases.block_causal import BlockCausalAttention
from dlm_builtin_plugins.attention_biases.full import FullAttention
from dlm_builtin_plugins.losses.dllm import DllmLoss
from dlm_builtin_plugins.losses.elbo import ElboLoss
from dlm_builtin_plugins.losses.guidelines import GuidelinesLoss
from dlm_builtin_plugins.losses.soft_ce import SoftCrossEntropyLoss
from dlm_builtin_plugins.maskings.bernoulli import BernoulliMasking
from dlm_builtin_plugins.maskings.contiguous import ContiguousMasking
from dlm_builtin_plugins.noise_types.mask import MaskNoise
from dlm_builtin_plugins.noise_types.random_replace import RandomReplaceNoise
from dlm_builtin_plugins.optimizers.adamw import AdamW
from dlm_builtin_plugins.optimizers.adamw8bit import AdamW8bit
from dlm_builtin_plugins.optimizers.lion8bit import Lion8bit
from dlm_builtin_plugins.remasking.confidence_temperature import ConfidenceTemperature
from dlm_builtin_plugins.remasking.dynamic_threshold import DynamicThreshold
from dlm_builtin_plugins.remasking.entropy import LowEntropy
from dlm_builtin_plugins.remasking.factor import Factor
from dlm_builtin_plugins.remasking.low_confidence import LowConfidence
from dlm_builtin_plugins.remasking.margin import LargeMargin
from dlm_builtin_plugins.remasking.random import RandomOrder
from dlm_builtin_plugins.remasking.random_topk import RandomTopK
from dlm_builtin_plugins.remasking.remdm import ReMDM
from dlm_builtin_plugins.remasking.threshold import Threshold
from dlm_builtin_plugins.schedules.cosine import CosineSchedule
from dlm_builtin_plugins.schedules.power import PowerSchedule
from dlm_builtin_plugins.schedules.sigmoid import SigmoidSchedule
from dlm_builtin_plugins.schedules.uniform import UniformSchedule
from dlm_plugins import (
    AttentionBias,
    Loss,
    Masking,
    NoiseSchedule,
    NoiseType,
    OptimizerFactory,
    Remasker,
    hookimpl,
)


@hookimpl
def dlm_losses() -> Mapping[str, type[Loss]]:
    """Losses by name."""
    return {"guidelines": GuidelinesLoss, "dllm": DllmLoss, "soft_ce": SoftCrossEntropyLoss, "elbo": ElboLoss}


@hookimpl
def dlm_noise_schedules() -> Mapping[str, type[NoiseSchedule]]:
    """Noise schedules by name."""
    return {"uniform": UniformSchedule, "cosine": CosineSchedule, "power": PowerSchedule, "sigmoid": SigmoidSchedule}


@hookimpl
def dlm_maskings() -> Mapping[str, type[Masking]]:
    """Maskings by name."""
    return {"bernoulli": BernoulliMasking, "contiguous": ContiguousMasking}


@hookimpl
def dlm_noise_types() -> Mapping[str, type[NoiseType]]:
    """Noise types by name."""
    return {"mask": MaskNoise, "random_replace": RandomReplaceNoise}


@hookimpl
def dlm_attention_biases() -> Mapping[str, type[AttentionBias]]:
    """Attention biases by name."""
    return {
        "full": FullAttention,
        "block": BlockAttention,
        "block_causal": BlockCausalAttention,
        "alternating": AlternatingAttention,
    }


@hookimpl
def dlm_remaskers() -> Mapping[str, type[Remasker]]:
    """Remasking rules by name."""
    return {
        "low_confidence": LowConfidence,
        "random": RandomOrder,
        "random_topk": RandomTopK,
        "threshold": Threshold,
        "dynamic_threshold": DynamicThreshold,
        "factor": Factor,
        "confidence_temperature": ConfidenceTemperature,
        "entropy": LowEntropy,
        "margin": LargeMargin,
        "remdm": ReMDM,
    }


@hookimpl
def dlm_optimizers() -> Mapping[str, type[OptimizerFactory]]:
    """Optimizers by name."""
    return {"adamw": AdamW, "adamw8bit": AdamW8bit, "lion8bit": Lion8bit}
