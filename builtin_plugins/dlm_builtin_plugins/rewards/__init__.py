"""Built-in rewards by name: what an answer is worth."""

from collections.abc import Mapping

from dlm_builtin_plugins.rewards.references import ExactReward
from dlm_plugins import Reward

COMPONENTS: Mapping[str, type[Reward]] = {"exact": ExactReward}
