"""Contract tests of maskings that hold on average (p_mask is the true frequency), judged by z-tests."""

from collections.abc import Iterator

import torch
from torch import Tensor

from dlm_plugins.masking import FOLLOWS_RATE, IS_INDEPENDENT, Masking, has_many_views
from dlm_plugins.testing.masking_rows import many_rows, scored, select
from dlm_plugins.testing.property_tools import contract_property, describe
from dlm_plugins.testing.z_test import threshold, z_of_frequency, z_of_mean

_LENGTH = 12
_NUM_ROWS = 8192

# All positions; an answer behind a prompt, with holes; a single one.
_ELIGIBLE = tuple(
    torch.tensor([character == "x" for character in pattern])
    for pattern in ("xxxxxxxxxxxx", "...xx.xxx.x.", "....x.......")
)
_RATES = (
    *(torch.full((_LENGTH,), rate) for rate in (0.05, 0.3, 0.8)),
    torch.linspace(0.2, 0.7, _LENGTH),  # a rate of its own for each position
)


def _samples(masking: Masking) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
    """Of every case: its description, scored and p_mask of all views at the eligible positions, and each view's row."""
    for seed, (eligible, p) in enumerate((eligible, p) for eligible in _ELIGIBLE for p in _RATES):
        num_rows = _NUM_ROWS // 4 if has_many_views(masking) else _NUM_ROWS
        rows = many_rows(eligible, p, num_rows=num_rows, masking=masking, seed=seed)
        selection = select(masking, rows)
        case = f"eligible {describe(eligible.int())}, p {describe(p)}, {num_rows} rows"
        yield case, scored(selection)[:, eligible], selection.p_mask[:, eligible], rows.row_index


def _mean_over_views(values: Tensor, row: Tensor) -> Tensor:
    """(R, n) float64 from the values (views of all rows, n) and the row of each."""
    num_views = row.bincount()
    sums = torch.zeros(len(num_views), values.shape[1], dtype=torch.float64).index_add_(0, row, values.double())
    return sums / num_views[:, None]


def _z(masking: Masking, excess: Tensor, variance: Tensor, row: Tensor) -> Tensor:
    """z of each position, and of a row's sum. The variance of a single view is known."""
    mean = _mean_over_views(excess, row)
    each = z_of_mean(mean) if has_many_views(masking) else z_of_frequency(excess, variance)
    return torch.cat((each, z_of_mean(mean.sum(1, keepdim=True))))


@contract_property
def check_frequency_matches_p_mask(masking: Masking) -> None:
    """Positions are scored as often as ``p_mask`` says, over a row's views: each one, and all of a row together."""
    limit = threshold(len(_ELIGIBLE) * len(_RATES) * (_LENGTH + 1))
    for case, hit, p_mask, row in _samples(masking):
        p = p_mask.double()
        z = _z(masking, hit.double() - p, p * (1 - p), row)
        if not (z.abs() < limit).all():
            found, said = describe(hit.double().mean(0)), describe(p.mean(0))
            raise AssertionError(
                f"corrupted and scored {found} of the time, p_mask says {said} (|z| up to {z.abs().max():.1f}): {case}"
            )


@contract_property
def check_inverse_weights_have_mean_one(masking: Masking) -> None:
    """E[scored / p_mask] = 1 at every eligible position, over the views of a row: 1 / p is an unbiased weight."""
    limit = threshold(len(_ELIGIBLE) * len(_RATES) * (_LENGTH + 1))
    for case, hit, p_mask, row in _samples(masking):
        p = p_mask.double()
        excess = torch.where(hit, 1 / p.clamp_min(1e-12), 0.0) - 1
        z = _z(masking, excess, 1 / p.clamp_min(1e-12) - 1, row)
        if not (z.abs() < limit).all():
            found = describe(excess.mean(0) + 1)
            raise AssertionError(f"scored / p_mask is {found} on average (|z| up to {z.abs().max():.1f}): {case}")


@contract_property
def check_independence_claim(masking: Masking) -> None:
    """Where ``is_independent`` is claimed, ``p_mask`` is p, and no two positions of a row go together."""
    if not IS_INDEPENDENT.of(masking):
        return
    limit = threshold(len(_ELIGIBLE) * len(_RATES) * _LENGTH**2)
    asked = [p[eligible] for eligible in _ELIGIBLE for p in _RATES]
    for (case, corrupted, p_mask, row), p in zip(_samples(masking), asked, strict=True):
        if not torch.allclose(p_mask, p.expand_as(p_mask), rtol=1e-5, atol=0):
            raise AssertionError(f"claims is_independent, but p_mask {describe(p_mask[0])} is not p: {case}")
        excess = corrupted.double() - p
        first, second = torch.triu_indices(p.shape[0], p.shape[0], offset=1).unbind()
        variance = (p * (1 - p)).double()
        z = z_of_frequency(
            excess[:, first] * excess[:, second], (variance[first] * variance[second]).expand(len(row), -1)
        )
        if not (z.abs() < limit).all():
            worst = int(z.abs().argmax())
            pair = f"eligible positions {int(first[worst])} and {int(second[worst])}"
            raise AssertionError(f"claims is_independent, but {pair} go together (z = {z[worst]:.1f}): {case}")


@contract_property
def check_rate_follows_p(masking: Masking) -> None:
    """A higher p corrupts more (in the first view: a further one may take what the first has left), where claimed."""
    if not FOLLOWS_RATE.of(masking):
        return
    everywhere = torch.ones(_LENGTH, dtype=torch.bool)
    shares = []
    for p in (0.1, 0.5, 0.9):
        rows = many_rows(everywhere, torch.full((_LENGTH,), p), num_rows=512)
        shares.append(select(masking, rows).corrupted.double().mean().item())
    if not shares[0] < shares[1] < shares[2]:
        raise AssertionError(f"with p = 0.1, 0.5, 0.9 a share of {shares} of the positions is corrupted")
