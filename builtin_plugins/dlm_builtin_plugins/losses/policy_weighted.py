"""Weighted likelihood of a group's answers (wd1): good ones up, bad ones down, no ratio and no reference: mode rl."""

from typing import ClassVar

import attrs
import torch
from torch import Tensor

from dlm_plugins import LossOutput, LossView


@attrs.frozen(kw_only=True)
class PolicyWeightedLoss:
    """Log-likelihood weighted by softmax(A / temperature) - softmax(-A / temperature) over the group's advantages A.

    Tang et al. 2025, "wd1", arXiv:2507.08838. There is no ratio that could be clipped, and nothing but the model itself
    has to be asked. The softmax is that of the answers to one prompt, however many processes and micro-batches share
    the step.
    """

    is_likelihood_weighted: ClassVar[bool] = False
    needs_advantage: ClassVar[bool] = True

    temperature: float = attrs.field(
        default=1.0,
        validator=attrs.validators.gt(0),
        metadata={"help": "How much the best and the worst answers stand out: less for more; greater than 0."},
    )

    def __call__(self, view: LossView) -> LossOutput:
        """Score what the masking scores."""
        where = view.scored
        length = view.eligible.sum(dim=1, keepdim=True).clamp(min=1)  # (B, 1)
        log_probability = view.log_probabilities(where)
        weight = (view.weight / view.num_views * self._of_answers(view))[where].to(log_probability.dtype)
        normaliser = (view.eligible / view.num_views / length).sum()
        return LossOutput(-(weight * log_probability).sum().float(), normaliser)

    def _of_answers(self, view: LossView) -> Tensor:
        """(B, 1): in [-1, 1], and over the answers to a prompt they add up to 0."""
        if view.advantage is None or view.group_advantage is None:
            return torch.zeros_like(view.weight[:, :1])
        # Of an answer, whose tokens may differ (values): their mean, as the group has them.
        length = view.eligible.sum(dim=1, keepdim=True).clamp(min=1)
        mean = (view.advantage * view.eligible).sum(dim=1, keepdim=True) / length
        own, group = mean / self.temperature, view.group_advantage / self.temperature
        up = own - group.logsumexp(dim=1, keepdim=True)
        down = -own - (-group).logsumexp(dim=1, keepdim=True)
        return up.exp() - down.exp()
