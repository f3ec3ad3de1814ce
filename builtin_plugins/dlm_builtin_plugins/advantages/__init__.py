"""Built-in advantages by name: from rewards to how much better than expected each answer is (GRPO, RLOO, GAE)."""

from collections.abc import Mapping

from dlm_builtin_plugins.advantages.group import GroupAdvantage
from dlm_builtin_plugins.advantages.value import ValueAdvantage
from dlm_plugins import Advantage

COMPONENTS: Mapping[str, type[Advantage]] = {"group": GroupAdvantage, "value": ValueAdvantage}
