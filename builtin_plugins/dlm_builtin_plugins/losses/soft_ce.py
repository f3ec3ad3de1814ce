"""LLaDA's loss with label smoothing: smoothed cross-entropy at corrupted positions times min(1/p, reweight cap)."""

import attrs

from dlm_builtin_plugins.losses.guidelines import average
from dlm_plugins import LossOutput, LossView


@attrs.frozen(kw_only=True)
class SoftCrossEntropyLoss:
    """The guidelines' loss with label smoothing; the whole smoothed term is divided by p.

    Label smoothing: Szegedy et al. 2016, arXiv:1512.00567. The smoothing mass is spread over the real vocabulary only,
    neither over padded rows of the embedding nor over the mask token. With ``label_smoothing: 0`` it is ``guidelines``.
    """

    label_smoothing: float = attrs.field(
        default=0.1,
        validator=[attrs.validators.ge(0), attrs.validators.lt(1)],
        metadata={"help": "Probability taken from the right token and spread over the vocabulary, in [0, 1)."},
    )

    @property
    def is_likelihood_weighted(self) -> bool:
        """Smoothed cross-entropy is not the likelihood's."""
        return self.label_smoothing == 0

    def __call__(self, view: LossView) -> LossOutput:
        """Score the corrupted positions with weight min(1/p, cap) on the smoothed cross-entropy."""
        weight, normaliser = average(view, view.weight)
        total = view.weighted_cross_entropy(view.scored, weight, label_smoothing=self.label_smoothing)
        return LossOutput(total, normaliser)
