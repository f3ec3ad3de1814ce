"""Which parameter groups of torch get weight decay: from the contract's groups to torch.optim's."""

from collections.abc import Sequence
from typing import Any

from dlm_plugins import ParameterGroup


def torch_groups(groups: Sequence[ParameterGroup], weight_decay: float) -> list[dict[str, Any]]:
    """One group of ``torch.optim`` for each of ``groups``, in order; no decay where the group says so."""
    return [
        {"params": list(group.parameters.values()), "weight_decay": weight_decay if group.decays else 0.0}
        for group in groups
    ]
