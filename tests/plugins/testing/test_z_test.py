"""The z-tests themselves: they accept what is true, and find what is slightly off."""

import pytest
import torch

from dlm_plugins.testing.z_test import threshold, z_of_frequency, z_of_mean


def test_threshold_is_the_normal_quantile_and_grows_with_the_number_of_tests() -> None:
    assert threshold(1) == pytest.approx(5.7307, abs=1e-3)  # two-sided 1e-8
    assert threshold(100) > threshold(1)


@pytest.mark.parametrize(("offset", "is_found"), [(0.0, False), (0.02, True)])
def test_frequencies_are_judged_by_their_standard_error(offset: float, is_found: bool) -> None:
    p = torch.tensor([0.1, 0.5]).expand(100_000, 2)
    hits = (torch.rand(p.shape, generator=torch.Generator().manual_seed(0)) < p + offset).double()
    z = z_of_frequency(hits - p, p * (1 - p))
    expected = (hits.mean(0) - p[0]) * 100_000**0.5 / (p[0] * (1 - p[0])).sqrt()
    assert z.tolist() == pytest.approx(expected.tolist(), rel=1e-4)
    assert bool((z.abs() > threshold(2)).all()) == is_found


def test_means_are_judged_by_their_own_spread() -> None:
    samples = torch.randn(10_000, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 10.0])
    assert (z_of_mean(samples).abs() < threshold(2)).all()
    assert z_of_mean(samples + 0.2)[0] > threshold(2)
    assert z_of_mean(samples + 0.2)[1] < threshold(2)


def test_without_spread_only_zero_is_zero() -> None:
    assert z_of_mean(torch.tensor([[0.0, 1.0]] * 3)).tolist() == [0.0, float("inf")]
