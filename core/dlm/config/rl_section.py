"""Keys of section ``rl``: rewards, advantage, groups, updates a rollout, reference, curriculum of lengths (mode rl)."""

from collections.abc import Sequence
from typing import Literal

import attrs
from attrs.validators import and_, gt, lt, min_len, optional

from dlm.config.fields import (
    NOT_NEGATIVE,
    POSITIVE,
    POSITIVE_OR_NULL,
    component_beside_setting,
    component_setting,
    setting,
)
from dlm_plugins.advantage import Advantage
from dlm_plugins.optimizer import OptimizerFactory
from dlm_plugins.reward import Reward

START = "start"
"""As ``rl.reference``: the model that the run starts from."""


@attrs.frozen(kw_only=True)
class WeightedReward:
    """One reward of several. In the run file its name and options stand beside the weight."""

    reward: Reward = component_beside_setting("What an answer is worth.")
    weight: float = setting("What its scores are multiplied by.", 1.0, and_(gt(-1e6), lt(1e6)))


@attrs.frozen(kw_only=True)
class CurriculumStage:
    """How long answers are from some step on."""

    step: int = setting("The first step of the stage.", validator=NOT_NEGATIVE)
    gen_length: int = setting("As sampling.gen_length, and at most that.", validator=POSITIVE)
    block_length: int | None = setting(
        "As sampling.block_length; null: that, and no more than gen_length.", None, POSITIVE_OR_NULL
    )


@attrs.frozen(kw_only=True)
class ValueConfig:
    """A value model: what reward is to be expected, given how far an answer has come."""

    optimizer: OptimizerFactory = component_setting("Its optimizer; its learning rate is constant.", "adamw")
    clip: float | None = setting(
        "Most that an expected reward moves on one rollout before that is no longer rewarded; null: as far as it goes.",
        0.2,
        POSITIVE_OR_NULL,
    )
    updates: int = setting("Optimizer steps on the answers of a rollout.", 1, POSITIVE)
    shrink: int = setting(
        "Neighbouring steps of an answer that are valued at once, before the first of them: fewer forwards.",
        1,
        POSITIVE,
    )


@attrs.frozen(kw_only=True)
class RlConfig:
    """Learning from rewards."""

    rewards: Sequence[WeightedReward] = setting(
        "Rewards that are added up, each times its weight: [{name: exact, column: answer, weight: 1.0}, ...].", ()
    )
    advantage: Advantage = component_setting("How much better than expected an answer is, given the rewards.", "group")
    group_size: int = setting("Answers to each prompt, which are compared with each other.", 8, POSITIVE)
    updates_per_rollout: int = setting(
        "Optimizer steps on the same answers; 1: the plain policy gradient.", 1, POSITIVE
    )
    skip_even_groups: bool = setting(
        "Leave out prompts whose answers are all worth the same: there is nothing to learn from them.", default=True
    )
    reference: str | None = setting(
        "Model that the loss keeps to: start (the run's own, before its first step), a name or folder; null: none.",
        None,
        optional(min_len(1)),
    )
    overlong: Literal["zero", "mask"] = setting(
        "Answers without an end: zero: worth 0, whatever the rewards say; mask: not trained.", "zero"
    )
    value: ValueConfig | None = setting(
        "A value model for advantages that need one: a copy of the network with a linear head; null: none.", None
    )
    curriculum: Sequence[CurriculumStage] = setting(
        "Shorter answers first: [{step: 0, gen_length: 64}, {step: 100, gen_length: 256}].", ()
    )
