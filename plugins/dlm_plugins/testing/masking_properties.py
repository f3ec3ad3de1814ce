"""Contract tests of maskings that hold for every batch: shapes, eligible positions, p_mask, views."""

import torch

from dlm_plugins.masking import NUM_VIEWS, Masking
from dlm_plugins.testing.masking_rows import MaskingRows, many_rows, masking_rows, select
from dlm_plugins.testing.masking_statistics import (
    check_frequency_matches_p_mask,
    check_independence_claim,
    check_inverse_weights_have_mean_one,
    check_rate_follows_p,
)
from dlm_plugins.testing.property_tools import (
    at_every_value,
    contract_property,
    describe,
    for_all,
    require_close,
    require_equal,
    require_tensor,
)
from dlm_plugins.testing.purity import require_device_kept, require_pure


def _num_views(masking: Masking) -> int:
    num_views = NUM_VIEWS.of(masking)
    if num_views < 1:
        raise AssertionError(f"num_views is {num_views}, not at least 1")
    return num_views


@contract_property
def check_shapes(masking: Masking) -> None:
    """``corrupted`` is (B, L) bool, ``p_mask`` (B, L) float32."""

    def body(rows: MaskingRows) -> None:
        selection = select(masking, rows)
        require_tensor(selection.corrupted, "corrupted", rows.eligible.shape, torch.bool)
        require_tensor(selection.p_mask, "p_mask", rows.eligible.shape, torch.float32)

    for_all(masking_rows(_num_views(masking)), body)


@contract_property
def check_nothing_outside_eligible(masking: Masking) -> None:
    """Positions that are not eligible are never corrupted, and their ``p_mask`` is 0."""

    def body(rows: MaskingRows) -> None:
        selection = select(masking, rows)
        if (selection.corrupted & ~rows.eligible).any():
            raise AssertionError(f"corrupts positions that are not eligible: {describe(selection.corrupted)}")
        if (selection.p_mask[~rows.eligible] != 0).any():
            raise AssertionError(f"p_mask is not 0 where nothing is eligible: {describe(selection.p_mask)}")

    for_all(masking_rows(_num_views(masking)), body)


@at_every_value
@contract_property
def check_p_mask_is_probability(masking: Masking) -> None:
    """``p_mask`` is in [0, 1]; at 0 nothing is corrupted, at 1 everything."""

    def body(rows: MaskingRows) -> None:
        selection = select(masking, rows)
        corrupted, p_mask = selection.corrupted, selection.p_mask
        if not ((p_mask >= 0) & (p_mask <= 1)).all():
            raise AssertionError(f"p_mask leaves [0, 1]: {describe(p_mask)}")
        for certain, wrong, what in ((0, corrupted, "it is corrupted"), (1, ~corrupted, "it is not corrupted")):
            places = (wrong & (p_mask == certain)).nonzero()
            if len(places):
                row, position = places[0].tolist()
                raise AssertionError(f"p_mask is {certain} at position {position} of row {row}, but {what}")

    for_all(masking_rows(_num_views(masking)), body)


@contract_property
def check_row_independent_of_batch(masking: Masking) -> None:
    """A row gets the same alone, in a batch, in another order, and with more padding."""

    def body(rows: MaskingRows) -> None:
        num_rows, length = rows.eligible.shape
        whole = select(masking, rows)
        order = list(reversed(range(num_rows)))
        others = {
            "in another order": (select(masking, rows.take(order)), order),
            "with more padding": (select(masking, rows.padded(3)), list(range(num_rows))),
            **{f"row {row} alone": (select(masking, rows.take([row])), [row]) for row in range(num_rows)},
        }
        for how, (selection, which) in others.items():
            corrupted, p_mask = selection.corrupted[:, :length], selection.p_mask[:, :length]
            require_equal(corrupted, whole.corrupted[which], f"another selection {how}")
            require_close(p_mask, whole.p_mask[which], f"another p_mask {how}")

    for_all(masking_rows(_num_views(masking)), body)


@contract_property
def check_pure(masking: Masking) -> None:
    """Random numbers come from the request's draws only, and the request is left as it was."""
    for_all(
        masking_rows(_num_views(masking)), lambda rows: require_pure(masking.select, rows.request()), max_examples=5
    )


@contract_property
def check_views_differ(masking: Masking) -> None:
    """With ``num_views`` above 1 the views of a row are not all the same."""
    num_views = _num_views(masking)
    if num_views == 1:
        return
    length = 12
    rows = many_rows(torch.ones(length, dtype=torch.bool), torch.full((length,), 0.5), num_rows=16, num_views=num_views)
    views = select(masking, rows).corrupted.view(-1, num_views, length)
    if (views == views[:, :1]).all():
        raise AssertionError(f"claims num_views = {num_views}, but all views of a row are the same")


@contract_property
def check_device_kept(masking: Masking) -> None:
    """The selection is where the request is."""
    length, num_views = 6, _num_views(masking)
    rows = many_rows(torch.ones(length, dtype=torch.bool), torch.full((length,), 0.5), num_rows=2, num_views=num_views)
    require_device_kept(lambda: select(masking, rows.to("meta")))


PROPERTIES = (
    check_shapes,
    check_nothing_outside_eligible,
    check_p_mask_is_probability,
    check_row_independent_of_batch,
    check_pure,
    check_views_differ,
    check_frequency_matches_p_mask,
    check_inverse_weights_have_mean_one,
    check_independence_claim,
    check_rate_follows_p,
    check_device_kept,
)
