"""Contract tests of maskings that hold on average (p_mask is the true frequency), judged by z-tests."""

from collections.abc import Iterator

import torch
from torch import Tensor

from dlm_plugins.masking import IS_INDEPENDENT, NUM_VIEWS, Masking
from dlm_plugins.testing.masking_rows import many_rows, select
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


def _samples(masking: Masking) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Of every case and view: its description, corrupted and p_mask at the eligible positions (rows, positions)."""
    num_views = NUM_VIEWS.of(masking)
    for seed, (eligible, p) in enumerate((eligible, p) for eligible in _ELIGIBLE for p in _RATES):
        rows = many_rows(eligible, p, num_rows=_NUM_ROWS, num_views=num_views, seed=seed)
        selection = select(masking, rows)
        for view in range(num_views):
            case = f"eligible {describe(eligible.int())}, p {describe(p)}, view {view}, {_NUM_ROWS} rows"
            where = slice(view, None, num_views)
            yield case, selection.corrupted[where][:, eligible], selection.p_mask[where][:, eligible]


@contract_property
def check_frequency_matches_p_mask(masking: Masking) -> None:
    """Positions are corrupted as often as ``p_mask`` says: each one, and all of a row together."""
    limit = threshold(len(_ELIGIBLE) * len(_RATES) * (_LENGTH + 1) * NUM_VIEWS.of(masking))
    for case, corrupted, p_mask in _samples(masking):
        p = p_mask.double()
        excess = corrupted.double() - p
        z = torch.cat((z_of_frequency(excess, p * (1 - p)), z_of_mean(excess.sum(1, keepdim=True))))
        if not (z.abs() < limit).all():
            found, said = describe(corrupted.double().mean(0)), describe(p.mean(0))
            raise AssertionError(
                f"corrupted {found} of the time, p_mask says {said} (|z| up to {z.abs().max():.1f}): {case}"
            )


@contract_property
def check_inverse_weights_have_mean_one(masking: Masking) -> None:
    """E[corrupted / p_mask] = 1 at every eligible position: what makes 1 / p an unbiased weight."""
    limit = threshold(len(_ELIGIBLE) * len(_RATES) * (_LENGTH + 1) * NUM_VIEWS.of(masking))
    for case, corrupted, p_mask in _samples(masking):
        p = p_mask.double()
        excess = torch.where(corrupted, 1 / p.clamp_min(1e-12), 0.0) - 1
        variance = 1 / p.clamp_min(1e-12) - 1
        z = torch.cat((z_of_frequency(excess, variance), z_of_mean(excess.sum(1, keepdim=True))))
        if not (z.abs() < limit).all():
            found = describe(excess.mean(0) + 1)
            raise AssertionError(f"corrupted / p_mask is {found} on average (|z| up to {z.abs().max():.1f}): {case}")


@contract_property
def check_independence_claim(masking: Masking) -> None:
    """Where ``is_independent`` is claimed, ``p_mask`` is p, and no two positions of a row go together."""
    if not IS_INDEPENDENT.of(masking):
        return
    limit = threshold(len(_ELIGIBLE) * len(_RATES) * _LENGTH**2 * NUM_VIEWS.of(masking))
    asked = [p[eligible] for eligible in _ELIGIBLE for p in _RATES for _ in range(NUM_VIEWS.of(masking))]
    for (case, corrupted, p_mask), p in zip(_samples(masking), asked, strict=True):
        if not torch.allclose(p_mask, p.expand_as(p_mask), rtol=1e-5, atol=0):
            raise AssertionError(f"claims is_independent, but p_mask {describe(p_mask[0])} is not p: {case}")
        excess = corrupted.double() - p
        first, second = torch.triu_indices(p.shape[0], p.shape[0], offset=1).unbind()
        variance = (p * (1 - p)).double()
        z = z_of_frequency(
            excess[:, first] * excess[:, second], (variance[first] * variance[second]).expand(_NUM_ROWS, -1)
        )
        if not (z.abs() < limit).all():
            worst = int(z.abs().argmax())
            pair = f"eligible positions {int(first[worst])} and {int(second[worst])}"
            raise AssertionError(f"claims is_independent, but {pair} go together (z = {z[worst]:.1f}): {case}")


@contract_property
def check_rate_follows_p(masking: Masking) -> None:
    """A higher p corrupts more (in the first view: a further one may take what the first has left)."""
    everywhere = torch.ones(_LENGTH, dtype=torch.bool)
    shares = []
    for p in (0.1, 0.5, 0.9):
        rows = many_rows(everywhere, torch.full((_LENGTH,), p), num_rows=512)
        shares.append(select(masking, rows).corrupted.double().mean().item())
    if not shares[0] < shares[1] < shares[2]:
        raise AssertionError(f"with p = 0.1, 0.5, 0.9 a share of {shares} of the positions is corrupted")
