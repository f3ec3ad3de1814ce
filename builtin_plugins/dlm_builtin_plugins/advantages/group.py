"""Group advantage: reward minus that of the other answers to the same prompt, maybe over its spread (GRPO, RLOO)."""

from typing import Literal

import attrs
from torch import Tensor

from dlm_plugins import AdvantageRequest

_ROUNDING = 1e-6


@attrs.frozen(kw_only=True)
class GroupAdvantage:
    """Reward minus the mean of the group, or of the others in it, maybe over the group's standard deviation.

    ``leave_one_out`` (RLOO: Kool et al. 2019; Ahmadian et al. 2024, arXiv:2402.14740) leaves the policy gradient
    unbiased; it is ``mean`` times G / (G - 1). ``std`` is GRPO's (Shao et al. 2024, arXiv:2402.03300): it weighs
    prompts that are nearly always or nearly never answered right more than their gradient says.
    """

    baseline: Literal["leave_one_out", "mean"] = attrs.field(
        default="leave_one_out",
        validator=attrs.validators.in_(("leave_one_out", "mean")),
        metadata={"help": "What is expected: the mean of the other answers, or of all."},
    )
    scale: Literal["none", "std"] = attrs.field(
        default="none",
        validator=attrs.validators.in_(("none", "std")),
        metadata={"help": "What the difference is divided by: nothing, or the standard deviation in the group."},
    )

    def advantage(self, request: AdvantageRequest) -> Tensor:
        """(B,) float32: compare within each group."""
        rewards = request.rewards.double()
        num_answers = rewards.shape[1]
        excess = rewards - rewards.mean(dim=1, keepdim=True)
        spread = excess.square().mean(dim=1, keepdim=True).sqrt()
        is_even = excess.abs().amax(dim=1, keepdim=True) <= _ROUNDING * rewards.abs().amax(dim=1, keepdim=True)
        if self.baseline == "leave_one_out" and num_answers > 1:
            excess = excess * (num_answers / (num_answers - 1))
        if self.scale == "std":
            excess = excess / spread
        # Sums of weighted rewards that should be equal may differ in their last digit.
        return excess.masked_fill(is_even, 0.0).float().flatten()
