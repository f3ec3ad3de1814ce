"""Complementary masking: a mask and its complement, two views of a row (Fast-dLLM v2; coupled RL), mixed with one."""

import attrs
import torch
from torch import Tensor

from dlm_plugins import MaskingRequest, Selection


@attrs.frozen(kw_only=True)
class ComplementaryMasking:
    """Two views of each row: independent coins, and what they left. Every eligible token is scored once per pair.

    Wu et al. 2025, "Fast-dLLM v2", arXiv:2509.26328; the coupled estimate of Gong et al. 2025, "DiffuCoder",
    arXiv:2506.20639. The second view has mask rate 1 - p, and both are weighted by the inverse of their own rate. With
    ``mix`` some rows get the first view only, as under ``bernoulli``; a row's weight does not depend on it.
    """

    mix: float = attrs.field(
        default=0.0,
        validator=[attrs.validators.ge(0), attrs.validators.lt(1)],
        metadata={"help": "Probability that a row gets a single view as under bernoulli, in [0, 1)."},
    )

    def views_of(self, request: MaskingRequest) -> Tensor:
        """Two, or one where the row's coin says so."""
        return torch.where(request.draws.per_row("mix") < self.mix, 1, 2)

    def select(self, request: MaskingRequest) -> Selection:
        """The same coins in both views."""
        first = (request.view_index == 0)[:, None]
        taken = request.draws.per_position("coin") < request.p
        return Selection(
            corrupted=request.eligible & (taken == first),
            p_mask=torch.where(first, request.p, 1 - request.p).masked_fill(~request.eligible, 0.0),
        )
