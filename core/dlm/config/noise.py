"""Keys of ``noise`` and ``sft_noise``: schedule, masking, t sampling, lowest mask rate, reweight cap, random length."""

from typing import Literal

import attrs
from attrs.validators import ge, optional

from dlm.config.fields import FRACTION, PROPER_FRACTION, component, setting
from dlm_plugins.masking import Masking
from dlm_plugins.noise_schedule import NoiseSchedule
from dlm_plugins.noise_type import NoiseType


@attrs.frozen(kw_only=True)
class NoiseConfig:
    """How clean text becomes noisy text."""

    schedule: NoiseSchedule = component("Mask rate p as a function of diffusion time t.", "uniform")
    noise_type: NoiseType = component("What stands at a corrupted position.", "mask")
    masking: Masking = component("Which positions are corrupted, given p.", "bernoulli")
    t_sampling: Literal["stratified", "independent"] = setting(
        "How t is drawn over the rows of a step: spread evenly, or each row on its own.", "stratified"
    )
    t_per: Literal["sequence", "block", "token"] = setting("What gets a t of its own.", "sequence")
    min_masking_rate: float = setting(
        "Lower bound of p: noise is drawn and weighted with the bounded rate.", 0.001, PROPER_FRACTION
    )
    mask_contiguous_region_prob: float = setting(
        "Probability that a row is corrupted in one contiguous span instead of by `masking`.", 0.0, FRACTION
    )
    reweight_cap: float | None = setting("Upper bound of the weight 1/p; null for none.", None, optional(ge(1)))
    random_length_prob: float = setting(
        "Probability that a step's rows are cut to a random length; pre-training only.", 0.01, FRACTION
    )
