"""The contract kit on every built-in component, the way a third party uses it."""

from typing import ClassVar

from dlm_builtin_plugins.advantages.group import GroupAdvantage
from dlm_builtin_plugins.advantages.value import ValueAdvantage
from dlm_builtin_plugins.attention_biases.alternating import AlternatingAttention
from dlm_builtin_plugins.attention_biases.annealed import AnnealedAttention
from dlm_builtin_plugins.attention_biases.block import BlockAttention
from dlm_builtin_plugins.attention_biases.block_causal import BlockCausalAttention
from dlm_builtin_plugins.attention_biases.full import FullAttention
from dlm_builtin_plugins.attention_biases.per_layer import PerLayerAttention
from dlm_builtin_plugins.losses.dllm import DllmLoss
from dlm_builtin_plugins.losses.dpo import DpoLoss
from dlm_builtin_plugins.losses.elbo import ElboLoss
from dlm_builtin_plugins.losses.guidelines import GuidelinesLoss
from dlm_builtin_plugins.losses.hybrid import HybridLoss
from dlm_builtin_plugins.losses.policy_clip import PolicyClipLoss
from dlm_builtin_plugins.losses.policy_weighted import PolicyWeightedLoss
from dlm_builtin_plugins.losses.soft_ce import SoftCrossEntropyLoss
from dlm_builtin_plugins.maskings.all import FullMasking
from dlm_builtin_plugins.maskings.bernoulli import BernoulliMasking
from dlm_builtin_plugins.maskings.complementary import ComplementaryMasking
from dlm_builtin_plugins.maskings.contiguous import ContiguousMasking
from dlm_builtin_plugins.maskings.semi_ar import SemiAutoregressiveMasking, TwoStageMasking
from dlm_builtin_plugins.maskings.trace import TraceMasking
from dlm_builtin_plugins.metrics.answers import Contains, ExactMatch, Number, Pattern
from dlm_builtin_plugins.metrics.diversity import DistinctN, Entropy
from dlm_builtin_plugins.metrics.likelihoods import Accuracy, Elbo
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
from dlm_builtin_plugins.rewards.code_tests import TestsReward
from dlm_builtin_plugins.rewards.form import EndsReward, LengthReward, PatternReward
from dlm_builtin_plugins.rewards.references import ExactReward, NumberReward
from dlm_builtin_plugins.schedules.cosine import CosineSchedule
from dlm_builtin_plugins.schedules.power import PowerSchedule
from dlm_builtin_plugins.schedules.sigmoid import SigmoidSchedule
from dlm_builtin_plugins.schedules.uniform import UniformSchedule
from dlm_plugins.kinds import KINDS
from dlm_plugins.registry import Registry
from dlm_plugins.testing import (
    AdvantageContract,
    AttentionBiasContract,
    LossContract,
    MaskingContract,
    MetricContract,
    NoiseScheduleContract,
    NoiseTypeContract,
    OptimizerContract,
    RemaskerContract,
    RewardContract,
)


class TestGuidelinesLoss(LossContract):
    component = GuidelinesLoss


class TestDllmLoss(LossContract):
    component = DllmLoss


class TestPolicyClipLoss(LossContract):
    component = PolicyClipLoss


class TestPolicyWeightedLoss(LossContract):
    component = PolicyWeightedLoss


class TestSoftCrossEntropyLoss(LossContract):
    component = SoftCrossEntropyLoss


class TestElboLoss(LossContract):
    component = ElboLoss


class TestDpoLoss(LossContract):
    component = DpoLoss


class TestHybridLoss(LossContract):
    component = HybridLoss


class TestUniformSchedule(NoiseScheduleContract):
    component = UniformSchedule


class TestCosineSchedule(NoiseScheduleContract):
    component = CosineSchedule


class TestPowerSchedule(NoiseScheduleContract):
    component = PowerSchedule


class TestSigmoidSchedule(NoiseScheduleContract):
    component = SigmoidSchedule


class TestSigmoidScheduleFarOut(NoiseScheduleContract):
    component: ClassVar = [SigmoidSchedule(start=10, end=20), SigmoidSchedule(start=-30, end=-25, tau=2)]


class TestBernoulliMasking(MaskingContract):
    component = BernoulliMasking


class TestContiguousMasking(MaskingContract):
    component = ContiguousMasking


class TestComplementaryMasking(MaskingContract):
    component = ComplementaryMasking


class TestSemiAutoregressiveMasking(MaskingContract):
    component = SemiAutoregressiveMasking


class TestTwoStageMasking(MaskingContract):
    component = TwoStageMasking


class TestTraceMasking(MaskingContract):
    component: ClassVar = [TraceMasking(), TraceMasking(shrink=2), TraceMasking(views=2)]


class TestFullMasking(MaskingContract):
    component: ClassVar = [FullMasking(), FullMasking(prompt_rate=0.15)]


class TestMaskNoise(NoiseTypeContract):
    component = MaskNoise


class TestRandomReplaceNoise(NoiseTypeContract):
    component = RandomReplaceNoise


class TestFullAttention(AttentionBiasContract):
    component = FullAttention


class TestBlockAttention(AttentionBiasContract):
    component = BlockAttention


class TestBlockCausalAttention(AttentionBiasContract):
    component = BlockCausalAttention


class TestAlternatingAttention(AttentionBiasContract):
    component = AlternatingAttention


class TestAlternatingAttentionOfEqualBiases(AttentionBiasContract):
    component = AlternatingAttention(first="block", second="block")


class TestAnnealedAttention(AttentionBiasContract):
    component = AnnealedAttention


class TestPerLayerAttention(AttentionBiasContract):
    component: ClassVar = [
        PerLayerAttention(),
        PerLayerAttention(plan=[BlockCausalAttention(), BlockCausalAttention()]),
        PerLayerAttention(plan=[BlockAttention(), AnnealedAttention()]),
        PerLayerAttention(plan=[BlockAttention(), AlternatingAttention(first="block", second="block")]),
    ]


class TestLowConfidence(RemaskerContract):
    component = LowConfidence


class TestRandomOrder(RemaskerContract):
    component = RandomOrder


class TestRandomTopK(RemaskerContract):
    component = RandomTopK


class TestThreshold(RemaskerContract):
    component = Threshold


class TestDynamicThreshold(RemaskerContract):
    component = DynamicThreshold


class TestFactor(RemaskerContract):
    component = Factor


class TestConfidenceTemperature(RemaskerContract):
    component = ConfidenceTemperature


class TestLowEntropy(RemaskerContract):
    component = LowEntropy


class TestLargeMargin(RemaskerContract):
    component = LargeMargin


class TestReMDM(RemaskerContract):
    component = ReMDM


class TestElbo(MetricContract):
    component = Elbo


class TestAccuracy(MetricContract):
    component = Accuracy


class TestExactMatch(MetricContract):
    component = ExactMatch


class TestContains(MetricContract):
    component = Contains


class TestNumber(MetricContract):
    component = Number


class TestPattern(MetricContract):
    component = Pattern


class TestDistinctN(MetricContract):
    component = DistinctN


class TestEntropy(MetricContract):
    component = Entropy


class TestExactReward(RewardContract):
    component = ExactReward


class TestNumberReward(RewardContract):
    component = NumberReward


class TestPatternReward(RewardContract):
    component: ClassVar = [PatternReward(), PatternReward(pattern=r"(a|a)*\z|7$")]


class TestEndsReward(RewardContract):
    component = EndsReward


class TestLengthReward(RewardContract):
    component: ClassVar = [LengthReward(), LengthReward(target=0, limit=1), LengthReward(target=3, limit=9)]


class TestTestsReward(RewardContract):
    component: ClassVar = [TestsReward(seconds=2.0)]


class TestValueAdvantage(AdvantageContract):
    component = ValueAdvantage


class TestGroupAdvantage(AdvantageContract):
    component = GroupAdvantage


class TestAdamW(OptimizerContract):
    component = AdamW


class TestAdamW8bit(OptimizerContract):
    component = AdamW8bit


class TestLion8bit(OptimizerContract):
    component = Lion8bit


def test_no_built_in_is_left_out_and_every_kind_has_one() -> None:
    built_ins = [entry for entry in Registry.discover().entries() if entry.distribution == "dlm"]
    classes = [each for name, each in globals().items() if name.startswith("Test") and each.__module__ == __name__]
    chosen = [cls.component for cls in classes]
    instances = [each for component in chosen for each in (component if isinstance(component, list) else [component])]
    tested = {each if isinstance(each, type) else type(each) for each in instances}
    assert {entry.cls for entry in built_ins} == tested
    assert {entry.kind for entry in built_ins} == set(KINDS)
