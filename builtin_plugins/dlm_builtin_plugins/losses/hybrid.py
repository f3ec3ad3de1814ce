"""Hybrid loss: next-token (autoregressive, AR) cross-entropy on a causal clean copy beside the diffusion loss."""

from typing import ClassVar

import attrs

from dlm_builtin_plugins.losses.guidelines import GuidelinesLoss, average
from dlm_plugins import LossOutput, LossView


@attrs.frozen(kw_only=True)
class HybridLoss:
    """LLaDA's loss plus ``ar_weight`` times the next-token loss of the same rows, clean and causal, in one forward.

    Joint autoregressive and diffusion training, as of NVIDIA's Nemotron diffusion models: the model keeps what its
    parent could do. Needs ``model.logit_shift: true``, so that in both halves position i - 1 predicts position i. With
    a weight of 0 it is ``guidelines``, without the copy. What the next-token loss adds up is divided by the same count
    of tokens or answers; the first token of a text, which nothing precedes, adds nothing.
    """

    is_likelihood_weighted: ClassVar[bool] = False

    ar_weight: float = attrs.field(
        default=1.0,
        validator=attrs.validators.ge(0),
        metadata={"help": "Weight of the next-token loss beside the diffusion loss, at least 0."},
    )

    @property
    def needs_causal_copy(self) -> bool:
        """Where the weight is not 0."""
        return self.ar_weight > 0

    @property
    def figures(self) -> tuple[str, ...]:
        """Both losses, before they are weighted and added up, where there are two."""
        return ("diffusion_loss", "ar_loss") if self.needs_causal_copy else ()

    def __call__(self, view: LossView) -> LossOutput:
        """Score what counts with weight min(1/p, cap), and every eligible token once from the tokens before it."""
        diffusion = GuidelinesLoss()(view)
        if not self.needs_causal_copy:
            return diffusion
        weight, _ = average(view, view.eligible.float())
        next_token = view.next_token_cross_entropy(view.eligible, weight)
        found = dict(zip(self.figures, (diffusion.total.detach(), next_token.detach()), strict=True))
        return LossOutput(diffusion.total + self.ar_weight * next_token, diffusion.normaliser, found)
