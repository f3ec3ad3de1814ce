"""Keys of section ``rl``: what answers are worth (rewards), and how much better than expected they are (advantage)."""

from collections.abc import Sequence

import attrs
from attrs.validators import and_, gt, lt

from dlm.config.fields import component_beside_setting, component_setting, setting
from dlm_plugins.advantage import Advantage
from dlm_plugins.reward import Reward


@attrs.frozen(kw_only=True)
class WeightedReward:
    """One reward of several. In the run file its name and options stand beside the weight."""

    reward: Reward = component_beside_setting("What an answer is worth.")
    weight: float = setting("What its scores are multiplied by.", 1.0, and_(gt(-1e6), lt(1e6)))


@attrs.frozen(kw_only=True)
class RlConfig:
    """Learning from rewards."""

    rewards: Sequence[WeightedReward] = setting(
        "Rewards that are added up, each times its weight: [{name: exact, column: answer, weight: 1.0}, ...].", ()
    )
    advantage: Advantage = component_setting("How much better than expected an answer is, given the rewards.", "group")
