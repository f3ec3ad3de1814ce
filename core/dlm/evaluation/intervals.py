"""Confidence intervals of 95 %: Student's t, a ratio of sums over texts, a share (Wilson), a paired difference."""

from math import sqrt
from statistics import NormalDist

import attrs
import numpy as np

from dlm.evaluation.mask_designs import Floats

LEVEL = 0.95
_Z = NormalDist().inv_cdf(0.5 + LEVEL / 2)


@attrs.frozen(kw_only=True)
class Figure:
    """A figure with its intervals, as half widths around the value."""

    value: float
    draws: float
    """Of the draws alone: the texts are what they are; 0 where the value is exact."""
    data: float
    """Of draws and data: the texts are a sample of others like them. Infinite for a single text."""

    @property
    def relative(self) -> float:
        """Half width of the draws' interval over the value."""
        return self.draws / abs(self.value) if self.value else 0.0

    def scaled(self, factor: float) -> "Figure":
        """The figure in another unit."""
        return Figure(value=self.value * factor, draws=self.draws * abs(factor), data=self.data * abs(factor))


def t_quantile(degrees: int) -> float:
    """The 97.5 % point of Student's t, by its expansion around the normal (Abramowitz and Stegun 26.7.5); inf for 0."""
    if degrees < 1:
        return float("inf")
    if degrees < 5:
        return (12.7062047, 4.3026527, 3.1824463, 2.7764451)[degrees - 1]
    z, n = _Z, degrees
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / float(n) ** (power + 1) for power, term in enumerate(terms))


def half_width(variance: float, degrees: int) -> float:
    """Half an interval; 0 without variance, whatever the degrees of freedom."""
    return t_quantile(degrees) * sqrt(variance) if variance > 0 else 0.0


def ratio_figure(numerators: Floats, denominators: Floats, *, draws_variance: float, pairs: int) -> Figure:
    """The sum of the numerators over the sum of the denominators, for R texts.

    Args:
        numerators: (R,), of which each may hold noise of its draws.
        denominators: (R,), known exactly.
        draws_variance: of the numerators' sum, from the draws alone.
        pairs: that it stands on.
    """
    total, number = float(denominators.sum()), len(numerators)
    value = float(numerators.sum()) / total
    spread = float(((numerators - value * denominators) ** 2).sum()) * number / max(number - 1, 1) / total**2
    data = half_width(spread, number - 1) if number > 1 else float("inf")
    return Figure(value=value, draws=half_width(draws_variance, pairs) / total, data=data)


def mean_figure(values: Floats) -> Figure:
    """The mean of values that are exact given their texts; infinitely uncertain for a single one."""
    return ratio_figure(values, np.ones(len(values)), draws_variance=0.0, pairs=0)


def wilson(successes: float, number: int) -> tuple[float, float]:
    """The interval of a share, (low, high), which stays within [0, 1] (Wilson 1927)."""
    if not number:
        return 0.0, 1.0
    share, z2 = successes / number, _Z**2
    centre = (share + z2 / (2 * number)) / (1 + z2 / number)
    reach = _Z / (1 + z2 / number) * sqrt(share * (1 - share) / number + z2 / (4 * number**2))
    # Rounding must not leave the share outside.
    return max(min(centre - reach, share), 0.0), min(max(centre + reach, share), 1.0)
