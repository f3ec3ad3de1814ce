"""Ranked advantage."""

import attrs
from torch import Tensor

from dlm_plugins import AdvantageRequest


@attrs.frozen(kw_only=True)
class RankedAdvantage:
    """Share of the other answers to the prompt that are worth less, minus the share that are worth more.

    Only the order of the rewards matters, so that a reward of any scale will do.
    """

    scale: float = attrs.field(
        default=1.0, validator=attrs.validators.gt(0), metadata={"help": "Advantage of the only best answer; above 0."}
    )

    def advantage(self, request: AdvantageRequest) -> Tensor:
        """(B,), in [-scale, scale]."""
        rewards = request.rewards
        others = max(rewards.shape[1] - 1, 1)
        won = (rewards[:, :, None] - rewards[:, None, :]).sign().sum(dim=2)
        return (self.scale * won / others).flatten()
