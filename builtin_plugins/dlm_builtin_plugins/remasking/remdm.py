"""ReMDM: committed tokens of low confidence go back to mask, so that early mistakes can be corrected."""

from typing import ClassVar

import attrs
import torch
from torch import Tensor

from dlm_builtin_plugins.remasking.ranking import best
from dlm_plugins import Decision, DecodingState


@attrs.frozen(kw_only=True)
class ReMDM:
    """Low confidence that takes doubtful tokens back to mask, so that an early mistake can be mended (ReMDM).

    Wang et al. 2025, "Remasking Discrete Diffusion Models with Inference-Time Scaling", arXiv:2503.00307: their
    confidence weights under a cap on the rate. As many tokens as are taken back are committed on top of the quota, so
    that the block is finished in time. Approximate: the order of commitment is not that of one token a step.
    """

    respects_quota: ClassVar[bool] = False
    takes_back: ClassVar[bool] = True

    rate: float = attrs.field(
        default=0.05,
        validator=[attrs.validators.ge(0), attrs.validators.le(1)],
        metadata={"help": "Mean probability with which a committed token is taken back at a step, in [0, 1]."},
    )
    reconsider: bool = attrs.field(
        default=False,
        validator=attrs.validators.instance_of(bool),
        metadata={"help": "Judge tokens by what the model thinks of them now, not when they were committed."},
    )

    @property
    def needs_committed_predictions(self) -> bool:
        """Only to judge tokens anew."""
        return self.reconsider

    def decide(self, state: DecodingState) -> Decision:
        """Take some committed tokens back, and commit the quota and their number."""
        remask = state.draws.per_position("remask") < self._chance(state)
        commit = best(state.confidence, state.masked, state.quota + remask.sum(dim=1))
        return Decision(commit=commit, remask=remask)

    def _chance(self, state: DecodingState) -> Tensor:
        """(B, K) probability with which each position is taken back; 0 where nothing was generated."""
        is_generated = ~state.masked & (state.committed_step >= 0)
        num_generated = is_generated.sum(dim=1, keepdim=True)
        doubt = torch.softmax((-self._trust(state)).masked_fill(~is_generated, -torch.inf), dim=1)
        # No more may go back than stay masked after this step: the last tokens would have no step left.
        num_left = (state.masked.sum(dim=1) - state.quota).clamp(min=0)[:, None]
        mean = (num_left / num_generated.clamp(min=1)).clamp(max=self.rate)
        return torch.where(is_generated, mean * num_generated * doubt, 0.0)

    def _trust(self, state: DecodingState) -> Tensor:
        if not self.reconsider:
            return state.committed_confidence
        return torch.where(state.candidates == state.committed_ids, state.confidence, 0.0)
