"""From cross-entropies under masks to a text's negative log-likelihood: weights, control variate, variance of draws."""

from collections.abc import Sequence

import attrs
import numpy as np

from dlm.evaluation.mask_designs import DRAWS_PER_STRATUM, Floats, Part


@attrs.frozen(kw_only=True, eq=False)
class Estimate:
    """-log p of a text, in nats, or the bound on it."""

    value: float
    pair_differences: Floats
    """(P,): what the two draws of each stratum, of each part, say apart, in nats; none where nothing was drawn."""
    num_draws: int
    """n, of the parts that were drawn; 0 where all is exact."""

    @property
    def variance(self) -> float:
        """Of the draws: 0 where the value is exact."""
        return variance_of(self.pair_differences, self.num_draws)


def variance_of(pair_differences: Floats, num_draws: int) -> float:
    """Of a sum over parts of means over n draws, from the differences within strata.

    A stratum's variance is half the squared difference of its two draws, and the mean has it twice over n squared.
    """
    return float((pair_differences**2).sum()) / num_draws**2 if num_draws else 0.0


def estimate(parts: Sequence[Part], cross_entropies: Sequence[Floats]) -> Estimate:
    """The sum over the parts of a text.

    Args:
        parts: with their masks and weights.
        cross_entropies: (n, L) for each, in nats; anything where the weight is 0.
    """
    value, differences, num_draws = 0.0, [np.zeros(0)], 0
    for part, cross_entropy in zip(parts, cross_entropies, strict=True):
        if part.stratum_weight is None:
            value += float((part.weight * np.where(part.weight != 0, cross_entropy, 0.0)).sum())
            continue
        draws = draw_values(part, cross_entropy)
        value += float(draws.mean())
        num_draws = len(draws)
        pairs = draws[: len(draws) // DRAWS_PER_STRATUM * DRAWS_PER_STRATUM].reshape(-1, DRAWS_PER_STRATUM)
        differences.append(pairs[:, 0] - pairs[:, 1])
    return Estimate(value=value, pair_differences=np.concatenate(differences), num_draws=num_draws)


def draw_values(part: Part, cross_entropy: Floats) -> Floats:
    """(n,): what each draw says of the part, in nats, with a leave-one-draw-out control variate.

    The control of token i in draw d is its mean cross-entropy c in the other draws that hid it, 0 where none did. It is
    taken off where draw d hides the token, and its expectation over the draw's stratum is added: L c times the share
    ``stratum_weight``. Other draws are independent of d, so that nothing is biased.
    """
    assert part.stratum_weight is not None
    hidden = np.where(part.masked, cross_entropy, 0.0)
    others, count = hidden.sum(axis=0) - hidden, part.masked.sum(axis=0) - part.masked
    control = np.divide(others, count, out=np.zeros_like(others), where=count > 0)
    own = (part.weight * (hidden - np.where(part.masked, control, 0.0))).sum(axis=1)
    return np.asarray(own + part.stratum_weight * control.sum(axis=1))
