"""Keys of section ``optim``: the optimizer's own options, and the learning rate schedule with its warm-up."""

from typing import Literal

import attrs

from dlm.config.fields import FRACTION, NOT_NEGATIVE_OR_NULL, component_beside_setting, setting
from dlm_plugins.optimizer import OptimizerFactory

DEFAULT_OPTIMIZER = "adamw"


@attrs.frozen(kw_only=True)
class LearningRateConfig:
    """The course of the learning rate; its peak is the optimizer's ``lr``."""

    lr_scheduler: Literal["linear", "cosine", "constant"] = setting(
        "Course of the learning rate after the warm-up.", "cosine"
    )
    warmup_ratio: float = setting("Share of the steps over which the learning rate rises from 0.", 0.0, FRACTION)
    warmup_steps: int | None = setting(
        "The same as a number of steps, instead of warmup_ratio.", None, NOT_NEGATIVE_OR_NULL
    )


@attrs.frozen(kw_only=True)
class OptimConfig(LearningRateConfig):
    """An optimizer with the course of its learning rate. In the run file all keys stand side by side."""

    optimizer: OptimizerFactory = component_beside_setting("The optimizer.", DEFAULT_OPTIMIZER)
