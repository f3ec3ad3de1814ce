"""The contract kit: properties of every kind of component, for authors' tests and for ``dlm plugins check``.

In a test file, one line a component::

    class TestClipped(NoiseScheduleContract):
        component = Clipped

and one for the package, so that a hook that dlm would not find fails there too::

    def test_dlm_takes_the_plugin() -> None:
        assert check_plugin(dlm_acme) == []
"""

from dlm_plugins.testing.component_check import PROPERTIES, check_component
from dlm_plugins.testing.contract_classes import (
    AdvantageContract,
    AttentionBiasContract,
    Contract,
    LossContract,
    MaskingContract,
    MetricContract,
    NoiseScheduleContract,
    NoiseTypeContract,
    OptimizerContract,
    RemaskerContract,
    RewardContract,
)
from dlm_plugins.testing.instances import options_strategy, variants
from dlm_plugins.testing.plugin_check import check_plugin
from dlm_plugins.testing.reference_view import ReferenceView

__all__ = [
    "PROPERTIES",
    "AdvantageContract",
    "AttentionBiasContract",
    "Contract",
    "LossContract",
    "MaskingContract",
    "MetricContract",
    "NoiseScheduleContract",
    "NoiseTypeContract",
    "OptimizerContract",
    "ReferenceView",
    "RemaskerContract",
    "RewardContract",
    "check_component",
    "check_plugin",
    "options_strategy",
    "variants",
]
