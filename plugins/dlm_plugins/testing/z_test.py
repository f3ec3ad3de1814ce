"""z-tests: a measured mean is judged by its own standard error, never by a fixed tolerance."""

from statistics import NormalDist

import torch
from torch import Tensor

FALSE_ALARM = 1e-8
"""Probability that a correct component fails a family of tests. Seeds are fixed too: no verdict ever changes."""


def threshold(num_tests: int) -> float:
    """The largest |z| that ``num_tests`` true hypotheses are expected to show (Bonferroni)."""
    return NormalDist().inv_cdf(1 - FALSE_ALARM / (2 * num_tests))


def z_of_mean(samples: Tensor) -> Tensor:
    """z of the hypothesis that independent samples (S, ...) have mean zero, by their own spread: (...) float64.

    Samples without any spread give 0 where they are zero (up to rounding), otherwise infinity.
    """
    samples = samples.double()
    mean = samples.mean(0)
    error = samples.std(0) / samples.shape[0] ** 0.5
    return _ratio(mean, error)


def z_of_frequency(excess: Tensor, variance: Tensor) -> Tensor:
    """z of summed deviations (S, ...) whose variances (S, ...) are known under the hypothesis: (...) float64."""
    return _ratio(excess.double().sum(0), variance.double().sum(0).sqrt())


def _ratio(deviation: Tensor, error: Tensor) -> Tensor:
    exact = error < 1e-12
    certain = torch.where(deviation.abs() < 1e-6, 0.0, torch.inf).to(deviation)
    return torch.where(exact, certain, deviation / error.clamp_min(1e-12))
