"""Full masking: everything is hidden and scored at once, part of the prompt too (the one-step estimate of d1)."""

from typing import ClassVar

import attrs
import torch

from dlm_plugins import MaskingRequest, Selection


@attrs.frozen(kw_only=True)
class FullMasking:
    """Every eligible position is hidden: one step from nothing, whatever p is (diffu-GRPO).

    Zhao et al. 2025, "d1", arXiv:2504.12216. ``prompt_rate`` hides tokens of the prompt too, which are not scored: a
    different view of the same answer at every step.
    """

    follows_rate: ClassVar[bool] = False

    prompt_rate: float = attrs.field(
        default=0.0,
        validator=[attrs.validators.ge(0), attrs.validators.lt(1)],
        metadata={"help": "Probability with which each token of the prompt is hidden, in [0, 1); d1 has 0.15."},
    )

    def select(self, request: MaskingRequest) -> Selection:
        """Hide all, and toss a coin for each token of the prompt."""
        eligible = request.eligible
        hidden = eligible
        if request.context is not None and self.prompt_rate > 0:
            hidden = eligible | (request.context & (request.draws.per_position("prompt") < self.prompt_rate))
        return Selection(corrupted=hidden, p_mask=torch.where(eligible, 1.0, 0.0), scored=eligible)
