"""Built-in rewards by name: what an answer is worth."""

from collections.abc import Mapping

from dlm_builtin_plugins.rewards.code_tests import TestsReward
from dlm_builtin_plugins.rewards.form import EndsReward, LengthReward, PatternReward
from dlm_builtin_plugins.rewards.references import ExactReward, NumberReward
from dlm_plugins import Reward

COMPONENTS: Mapping[str, type[Reward]] = {
    "exact": ExactReward,
    "number": NumberReward,
    "pattern": PatternReward,
    "ends": EndsReward,
    "length": LengthReward,
    "tests": TestsReward,
}
