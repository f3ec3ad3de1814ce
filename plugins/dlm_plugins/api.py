"""Every name that authors of plugins import: hooks, protocols and the objects that components are handed."""

from dlm_plugins.advantage import Advantage, AdvantageRequest
from dlm_plugins.attention_bias import (
    AttentionBias,
    ChangingAttentionBias,
    LayeredAttentionBias,
    MaskFunction,
    SequenceLayout,
    bias_at_end,
    bias_of_layer,
)
from dlm_plugins.claims import Claim
from dlm_plugins.draws import Draws, KeyedDraws
from dlm_plugins.hookspecs import (
    ProvidesAdvantages,
    ProvidesAttentionBiases,
    ProvidesLosses,
    ProvidesMaskings,
    ProvidesMetrics,
    ProvidesNoiseSchedules,
    ProvidesNoiseTypes,
    ProvidesOptimizers,
    ProvidesRemaskers,
    ProvidesRewards,
    hookimpl,
)
from dlm_plugins.kinds import KINDS, Kind
from dlm_plugins.loss import Loss, LossOutput, LossView
from dlm_plugins.masking import ManyViewed, Masking, MaskingRequest, Selection
from dlm_plugins.metric import Choice, Metric, MetricItem, MetricRequest
from dlm_plugins.noise_schedule import NoiseSchedule
from dlm_plugins.noise_type import CorruptionRequest, NoiseType
from dlm_plugins.optimizer import OptimizerFactory, ParameterGroup
from dlm_plugins.remasking import Decision, DecodingState, Remasker
from dlm_plugins.reward import Reward, RewardItem, RewardRequest
from dlm_plugins.run_components import ChecksRun, RunComponents

__all__ = [
    "KINDS",
    "Advantage",
    "AdvantageRequest",
    "AttentionBias",
    "ChangingAttentionBias",
    "ChecksRun",
    "Choice",
    "Claim",
    "CorruptionRequest",
    "Decision",
    "DecodingState",
    "Draws",
    "KeyedDraws",
    "Kind",
    "LayeredAttentionBias",
    "Loss",
    "LossOutput",
    "LossView",
    "ManyViewed",
    "MaskFunction",
    "Masking",
    "MaskingRequest",
    "Metric",
    "MetricItem",
    "MetricRequest",
    "NoiseSchedule",
    "NoiseType",
    "OptimizerFactory",
    "ParameterGroup",
    "ProvidesAdvantages",
    "ProvidesAttentionBiases",
    "ProvidesLosses",
    "ProvidesMaskings",
    "ProvidesMetrics",
    "ProvidesNoiseSchedules",
    "ProvidesNoiseTypes",
    "ProvidesOptimizers",
    "ProvidesRemaskers",
    "ProvidesRewards",
    "Remasker",
    "Reward",
    "RewardItem",
    "RewardRequest",
    "RunComponents",
    "Selection",
    "SequenceLayout",
    "bias_at_end",
    "bias_of_layer",
    "hookimpl",
]
