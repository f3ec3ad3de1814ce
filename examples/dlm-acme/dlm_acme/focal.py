"""Focal loss."""

import attrs
import torch

from dlm_plugins import LossOutput, LossView


@attrs.frozen(kw_only=True)
class FocalLoss:
    """Cross-entropy times 1/p and (1 - probability)^gamma: tokens the model already gets right count less.

    Lin et al. 2017, "Focal Loss for Dense Object Detection", arXiv:1708.02002, on the loss of LLaDA's guidelines.
    """

    gamma: float = attrs.field(
        default=2.0,
        validator=attrs.validators.ge(0),
        metadata={"help": "Focusing exponent, at least 0; 0 gives the loss of the guidelines."},
    )

    @property
    def is_likelihood_weighted(self) -> bool:
        """True without focusing only."""
        return self.gamma == 0

    def __call__(self, view: LossView) -> LossOutput:
        """Not linear in the cross-entropy, so it asks for log-probabilities: (N,) at the positions that count."""
        share = view.eligible / view.num_views
        if view.answer_length is not None:
            share = share / view.answer_length.clamp(min=1)
        log_probability = view.log_probabilities(view.scored)
        missing = -torch.expm1(log_probability)  # 1 - probability, exact where the probability rounds to 1
        # Below 1, the power has an infinite slope at 0: a token that is certain gets no gradient instead.
        focus = missing.clamp(min=1e-6) ** self.gamma
        weight = (view.weight * share)[view.scored]
        return LossOutput(-(weight * focus * log_probability).sum(), share.sum())
