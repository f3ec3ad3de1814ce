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
    """``pretrain``, ``sft``, ``preference`` or ``rl``."""
    loss: Loss
    """The component at ``training.loss_impl``."""
    noise_schedule: NoiseSchedule
    """The schedule that is in effect: of ``training.sft_noise`` in mode ``sft``, else of ``training.noise``."""
    masking: Masking
    """The masking; rows whose coin falls on a contiguous region are corrupted by ``contiguous`` instead."""
    noise_type: NoiseType
    """What stands at corrupted positions."""
    attention_bias: AttentionBias
    """The bias that training runs with: ``full`` unless ``training.block_attention`` is enabled."""
    names: Mapping[str, str]
    """Qualified name by kind, for messages: ``{"loss": "builtin:elbo", ...}``."""
    min_masking_rate: float
    """In [0, 1): lower bound of the mask rate; noise is drawn and weighted with the bounded rate."""
    reweight_cap: float | None
    """At least 1: upper bound of the weight 1 / p_mask; None for no bound."""
    mask_contiguous_region_prob: float
    """In [0, 1]: probability that a row is corrupted in one contiguous span instead of by ``masking``."""
    t_per: Literal["sequence", "block", "token"] = "sequence"
    """What gets a diffusion time, and with it a mask rate, of its own: each row, each block or each token."""


@runtime_checkable
class ChecksRun(Protocol):
    """Optional protocol of any component."""

    def incompatibilities(self, run: RunComponents) -> Iterable[str]:
        """One sentence for each reason why this component cannot work in ``run``; nothing when it can."""
        ...
