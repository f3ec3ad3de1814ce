"""What a component may ask about the rest of the run, to refuse combinations that cannot work."""

from collections.abc import Iterable, Mapping
from typing import Literal, Protocol, runtime_checkable

import attrs

from dlm_plugins.attention_bias import AttentionBias
from dlm_plugins.loss import Loss
from dlm_plugins.masking import Masking
from dlm_plugins.noise_schedule import NoiseSchedule
from dlm_plugins.noise_type import NoiseType


@attrs.frozen(kw_only=True)
class RunComponents:
    """The components of a training run, with the core settings that bear on their correctness."""

    mode: str
    """``pretrain`` or ``sft``."""
    loss: Loss
    noise_schedule: NoiseSchedule
    masking: Masking
    noise_type: NoiseType
    attention_bias: AttentionBias
    names: Mapping[str, str]
    """Qualified name by kind, for messages: ``{"loss": "builtin:elbo", ...}``."""
    min_masking_rate: float
    reweight_cap: float | None
    mask_contiguous_region_prob: float
    t_per: Literal["sequence", "block", "token"] = "sequence"
    """What gets a diffusion time of its own."""


@runtime_checkable
class ChecksRun(Protocol):
    """Optional protocol of any component."""

    def incompatibilities(self, run: RunComponents) -> Iterable[str]:
        """One sentence for each reason why this component cannot work in ``run``; nothing when it can."""
        ...
