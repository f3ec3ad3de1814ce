"""The objective of a value model: the reward to expect at each position; clipped regression on returns (PPO)."""

from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from dlm.diffusion.forward_process import NoisedBatch
from dlm.diffusion.objective import DiffusionObjective
from dlm.diffusion.sums import Sums, ratio


class ValueObjective(DiffusionObjective):
    """A body with a linear head that starts at zero: it expects nothing before it has learned."""

    clip: float | None = None
    """Most that a value moves from what was expected before that is no longer rewarded; None: no limit."""

    def __init__(self, body: nn.Module, head: nn.Linear, **others: Any) -> None:
        """As :class:`DiffusionObjective`; ``head`` is the language model's, and says how large the new one is."""
        dtype = torch.promote_types(head.weight.dtype, torch.float32)
        values = nn.Linear(head.in_features, 1, bias=False, dtype=dtype, device=head.weight.device)
        nn.init.zeros_(values.weight)
        super().__init__(body, values, **others)

    def values(self, noised: NoisedBatch) -> Tensor:
        """(B, L) float32 or wider: the reward that is expected at each position."""
        hidden = self._states(noised).noisy
        with torch.autocast(hidden.device.type, enabled=False):
            values: Tensor = self.head(hidden.to(self.head.weight.dtype))[..., 0]
        return values

    def forward(self, noised: NoisedBatch) -> tuple[Tensor, Tensor]:
        """Half the squared error at the scored positions, and the sums of :class:`ValueSums` behind the common ones."""
        assert noised.policy is not None
        assert noised.policy.value is not None
        assert noised.policy.returns is not None
        where = noised.scored
        value, old, returns = self.values(noised)[where], noised.policy.value[where], noised.policy.returns[where]
        error = (value - returns).square()
        if self.clip is not None:
            error = torch.maximum(error, (value.clamp(old - self.clip, old + self.clip) - returns).square())
        total, count = 0.5 * error.sum(), where.sum()
        own = (count, returns.sum(), returns.square().sum(), (old - returns).square().sum())
        sums = torch.stack([each.detach().float() for each in own])
        return total, torch.cat((Sums.of_loss(total, count), sums))


@attrs.define
class ValueSums:
    """Sums over positions that were written."""

    count: float
    returns: float
    squared_returns: float
    squared_error: float
    """Of what was expected before the step."""

    def explained(self) -> float | None:
        """Share of the variance of the returns that was expected: 1 at best, 0 as good as their mean; below: worse."""
        mean, square = ratio(self.returns, self.count), ratio(self.squared_returns, self.count)
        if mean is None or square is None or square - mean**2 <= 1e-6 * square:
            return None
        return 1.0 - self.squared_error / self.count / (square - mean**2)

    @classmethod
    def unpack(cls, vector: Sequence[float]) -> "ValueSums":
        """The sums from the numbers that the objective packed."""
        return cls(*vector)
