"""Every component keeps the contract of its kind."""

import dlm_acme
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
)
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
    check_plugin,
)

# A type checker holds hooks and components against the contract.
losses: ProvidesLosses = dlm_acme
noise_schedules: ProvidesNoiseSchedules = dlm_acme
maskings: ProvidesMaskings = dlm_acme
noise_types: ProvidesNoiseTypes = dlm_acme
attention_biases: ProvidesAttentionBiases = dlm_acme
remaskers: ProvidesRemaskers = dlm_acme
metrics: ProvidesMetrics = dlm_acme
rewards: ProvidesRewards = dlm_acme
advantages: ProvidesAdvantages = dlm_acme
optimizers: ProvidesOptimizers = dlm_acme


def test_the_framework_takes_the_plugin() -> None:
    """Its hooks are found, and offer components that may be chosen."""
    assert check_plugin(dlm_acme) == []


class TestFocalLoss(LossContract):
    """FocalLoss with its defaults and with other options."""

    component = FocalLoss


class TestClippedSchedule(NoiseScheduleContract):
    """ClippedSchedule with its defaults and with other options."""

    component = ClippedSchedule


class TestWholeWordMasking(MaskingContract):
    """WholeWordMasking with its defaults and with other options."""

    component = WholeWordMasking


class TestMixedNoise(NoiseTypeContract):
    """MixedNoise with its defaults and with other options."""

    component = MixedNoise


class TestSlidingWindow(AttentionBiasContract):
    """SlidingWindow with its defaults and with other options."""

    component = SlidingWindow


class TestAnnealedConfidence(RemaskerContract):
    """AnnealedConfidence with its defaults and with other options."""

    component = AnnealedConfidence


class TestRougeL(MetricContract):
    """RougeL with its defaults and with other options."""

    component = RougeL


class TestWordOverlap(RewardContract):
    """WordOverlap with its defaults and with other options."""

    component = WordOverlap


class TestRankedAdvantage(AdvantageContract):
    """RankedAdvantage with its defaults and with other options."""

    component = RankedAdvantage


class TestLion(OptimizerContract):
    """Lion with its defaults and with other options."""

    component = LionFactory
