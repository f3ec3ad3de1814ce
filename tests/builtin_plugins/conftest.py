"""A run for components that look at the others."""

import pytest

from dlm_builtin_plugins.attention_biases.full import FullAttention
from dlm_builtin_plugins.losses.guidelines import GuidelinesLoss
from dlm_builtin_plugins.maskings.bernoulli import BernoulliMasking
from dlm_builtin_plugins.noise_types.mask import MaskNoise
from dlm_builtin_plugins.schedules.uniform import UniformSchedule
from dlm_plugins import RunComponents


@pytest.fixture
def run_components() -> RunComponents:
    """A run that nothing speaks against."""
    kinds = ("loss", "noise_schedule", "masking", "noise_type", "attention_bias")
    return RunComponents(
        mode="sft",
        loss=GuidelinesLoss(),
        noise_schedule=UniformSchedule(),
        masking=BernoulliMasking(),
        noise_type=MaskNoise(),
        attention_bias=FullAttention(),
        names={kind: f"acme:my_{kind}" for kind in kinds},
        min_masking_rate=0.0,
        reweight_cap=None,
        mask_contiguous_region_prob=0.0,
    )
