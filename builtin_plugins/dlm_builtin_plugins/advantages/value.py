"""Value advantage: what came out against what a value model expected, step by step of the trace (GAE, TraceRL)."""

from typing import ClassVar

import attrs
import torch
from attrs.validators import and_, ge, le
from torch import Tensor

from dlm_plugins import AdvantageRequest


@attrs.frozen(kw_only=True)
class ValueAdvantage:
    """Generalised advantage estimation (GAE) over the denoising steps of an answer, with a value model as baseline.

    Schulman et al. 2016, arXiv:1506.02438; over steps of a trace, Wang et al. 2025, "TraceRL", arXiv:2509.06949. The
    value of a step is the mean over the positions it wrote, and the reward comes with the last step. With ``gamma`` and
    ``gae_lambda`` 1 a position's advantage is the reward minus its own value: no bias, whatever the values are. Lower
    ``gae_lambda`` trusts the values of later steps more: less variance, biased by what they get wrong.
    """

    needs_values: ClassVar[bool] = True

    gae_lambda: float = attrs.field(
        default=1.0,
        validator=and_(ge(0), le(1)),
        metadata={"help": "1: what came out alone counts; 0: what the next step's value says alone."},
    )
    gamma: float = attrs.field(
        default=1.0,
        validator=and_(ge(0), le(1)),
        metadata={"help": "What the reward is worth a step earlier, as a share."},
    )

    def advantage(self, request: AdvantageRequest) -> Tensor:
        """(B, L) float32: each position against its own value.

        Raises:
            ValueError: there are no values, or no trace.
        """
        values, step = request.values, request.committed_step
        if values is None or step is None:
            raise ValueError("needs the values of a value model (rl.value) and the trace of the answers")
        reward, values = request.rewards.flatten().double(), values.double()
        advantage = torch.zeros_like(values)
        # What is to come after the step at hand: the reward until a step is found, then what the next step expects.
        expected, excess = reward, torch.zeros_like(reward)
        is_last = torch.ones_like(reward, dtype=torch.bool)
        for number in range(int(step.max().item()), -1, -1):
            wrote = step == number  # (B, L)
            count = wrote.sum(dim=1)
            discount = torch.where(is_last, 1.0, self.gamma)
            ahead = discount * (expected + self.gae_lambda * excess)  # (B,)
            advantage = torch.where(wrote, ahead[:, None] - values, advantage)
            mean = values.masked_fill(~wrote, 0.0).sum(dim=1) / count.clamp(min=1)
            excess = torch.where(count > 0, ahead - mean, excess)
            expected = torch.where(count > 0, mean, expected)
            is_last &= count == 0
        return advantage.float()
