"""Keys of section ``optim``: the optimizer's own options, and the learning rate schedule with its warm-up."""

from collections.abc import Mapping
from typing import Any, Literal

import attrs
from cattrs import Converter

from dlm.config.fields import FRACTION, NOT_NEGATIVE_OR_NULL, setting
from dlm_plugins import KINDS
from dlm_plugins.errors import ConfigurationError, Problem
from dlm_plugins.optimizer import OptimizerFactory
from dlm_plugins.problems import problems_of
from dlm_plugins.registry import Registry
from dlm_plugins.structuring import structure_component

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

    optimizer: OptimizerFactory


def structure_optim(converter: Converter, registry: Registry, value: object) -> OptimConfig:
    """Build the section from a name or from one flat mapping.

    Raises:
        ConfigurationError: with the problems of both parts.
    """
    core: dict[str, object] = {}
    if isinstance(value, Mapping):
        core = {key: item for key, item in value.items() if key in KINDS["optimizer"].reserved}
        value = {"name": DEFAULT_OPTIMIZER, **{key: item for key, item in value.items() if key not in core}}
    problems: list[Problem] = []
    parts: dict[str, Any] = {}
    try:
        schedule: LearningRateConfig = converter.structure(core, LearningRateConfig)
        parts |= attrs.asdict(schedule, recurse=False)
    except ConfigurationError as error:
        problems += problems_of(error)
    try:
        free = KINDS["optimizer"].reserved - core.keys()
        parts["optimizer"] = structure_component(
            registry, "optimizer", value, also_known=sorted(free), converter=converter
        )
    except ConfigurationError as error:
        problems += problems_of(error)
    if problems:
        raise ConfigurationError(problems)
    return OptimConfig(**parts)
