"""Built-in advantages by name: from the rewards of a group to what each answer is better or worse than expected."""

from collections.abc import Mapping

from dlm_builtin_plugins.advantages.group import GroupAdvantage
from dlm_plugins import Advantage

COMPONENTS: Mapping[str, type[Advantage]] = {"group": GroupAdvantage}
