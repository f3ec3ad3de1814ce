"""Contract tests of maskings that hold for every batch: shapes, eligible positions, p_mask, views."""

import torch

from dlm_plugins.masking import Masking, has_many_views, views_of
from dlm_plugins.testing.masking_rows import MaskingRows, many_rows, masking_rows, scored, select
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


@contract_property
def check_shapes(masking: Masking) -> None:
    """``corrupted`` and ``scored`` are (B, L) bool, ``p_mask`` is (B, L) float32."""

    def body(rows: MaskingRows) -> None:
        selection = select(masking, rows)
        require_tensor(selection.corrupted, "corrupted", rows.eligible.shape, torch.bool)
        require_tensor(selection.p_mask, "p_mask", rows.eligible.shape, torch.float32)
        require_tensor(scored(selection), "scored", rows.eligible.shape, torch.bool)

    for_all(masking_rows(masking), body)


@contract_property
def check_number_of_views(masking: Masking) -> None:
    """``num_views`` or ``views_of``: at least one view a row, whatever else is in the batch."""

    def body(rows: MaskingRows) -> None:
        views = views_of(masking, rows.request())
        require_tensor(views, "views_of", rows.row_index.shape, torch.int64)
        if not (views >= 1).all():
            raise AssertionError(f"wants {describe(views)} views, not at least 1")
        for row in range(len(views)):
            alone = views_of(masking, rows.take([row]).request())
            require_equal(alone, views[row : row + 1], f"another number of views when row {row} is alone")

    for_all(masking_rows(), body)


@contract_property
def check_nothing_outside_eligible(masking: Masking) -> None:
    """Only eligible positions and context are corrupted, eligible ones alone are scored or have a ``p_mask``."""

    def body(rows: MaskingRows) -> None:
        selection = select(masking, rows)
        real = rows.document_id >= 0 if selection.scored is not None else rows.eligible
        if (selection.corrupted & ~real).any():
            raise AssertionError(f"corrupts positions that are not eligible: {describe(selection.corrupted)}")
        if (scored(selection) & ~(selection.corrupted & rows.eligible)).any():
            raise AssertionError(f"scores what is not eligible, or not corrupted: {describe(scored(selection))}")
        if (selection.p_mask[~rows.eligible] != 0).any():
            raise AssertionError(f"p_mask is not 0 where nothing is eligible: {describe(selection.p_mask)}")

    for_all(masking_rows(masking), body)


@at_every_value
@contract_property
def check_p_mask_is_probability(masking: Masking) -> None:
    """``p_mask`` is in [0, 1]; at 0 nothing is scored (if nothing else is said: corrupted), at 1 everything."""

    def body(rows: MaskingRows) -> None:
        selection = select(masking, rows)
        corrupted, p_mask = scored(selection), selection.p_mask
        if not ((p_mask >= 0) & (p_mask <= 1)).all():
            raise AssertionError(f"p_mask leaves [0, 1]: {describe(p_mask)}")
        for certain, wrong, what in ((0, corrupted, "it is corrupted"), (1, ~corrupted, "it is not corrupted")):
            places = (wrong & (p_mask == certain)).nonzero()
            if len(places):
                row, position = places[0].tolist()
                raise AssertionError(f"p_mask is {certain} at position {position} of row {row}, but {what}")

    for_all(masking_rows(masking), body)


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
            require_equal(scored(selection)[:, :length], scored(whole)[which], f"another set of scored ones {how}")
            require_close(p_mask, whole.p_mask[which], f"another p_mask {how}")

    for_all(masking_rows(masking), body)


@contract_property
def check_pure(masking: Masking) -> None:
    """Random numbers come from the request's draws only, and the request is left as it was."""
    for_all(masking_rows(masking), lambda rows: require_pure(masking.select, rows.request()), max_examples=5)


@contract_property
def check_views_differ(masking: Masking) -> None:
    """With several views the views of a row are not all the same."""
    if not has_many_views(masking):
        return
    length = 12
    everywhere, half = torch.ones(length, dtype=torch.bool), torch.full((length,), 0.5)
    rows = many_rows(everywhere, half, num_rows=16, masking=masking)
    if (rows.view_index == 0).all():  # one view is enough for such rows
        return
    corrupted = select(masking, rows).corrupted
    first = corrupted[rows.view_index == 0][rows.row_index]
    if (corrupted == first).all():
        raise AssertionError("wants several views, but all views of a row are the same")


@contract_property
def check_device_kept(masking: Masking) -> None:
    """The selection is where the request is."""
    length = 6
    rows = many_rows(torch.ones(length, dtype=torch.bool), torch.full((length,), 0.5), num_rows=2, masking=masking)
    require_device_kept(lambda: select(masking, rows.to("meta")))


PROPERTIES = (
    check_shapes,
    check_number_of_views,
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
