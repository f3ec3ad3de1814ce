"""Contract tests of noise types: clean elsewhere, allowed ids, absorbing claim, independence of the batch."""

import torch
from torch import Tensor

from dlm_plugins.noise_type import IS_ABSORBING, MAY_WRITE_MASK, NoiseType
from dlm_plugins.testing.corruption_rows import CorruptionRows, corruption_rows, large_rows
from dlm_plugins.testing.property_tools import (
    at_every_value,
    contract_property,
    describe,
    for_all,
    require_equal,
    require_tensor,
    returned,
)
from dlm_plugins.testing.purity import require_device_kept, require_pure


def _corrupt(noise_type: NoiseType, rows: CorruptionRows) -> Tensor:
    return returned(noise_type.corrupt(rows.request()), Tensor, "corrupt")


@contract_property
def check_shapes(noise_type: NoiseType) -> None:
    """Noisy ids are (B, L) int64."""

    def body(rows: CorruptionRows) -> None:
        require_tensor(_corrupt(noise_type, rows), "noisy ids", rows.input_ids.shape, torch.int64)

    for_all(corruption_rows(), body)


@contract_property
def check_clean_elsewhere(noise_type: NoiseType) -> None:
    """Positions that are not corrupted keep their id."""

    def body(rows: CorruptionRows) -> None:
        noisy = _corrupt(noise_type, rows)
        changed = (noisy != rows.input_ids) & ~rows.corrupted
        if changed.any():
            raise AssertionError(f"changes positions that are not corrupted: {describe(noisy)}")

    for_all(corruption_rows(), body)


@at_every_value
@contract_property
def check_replacements_allowed(noise_type: NoiseType) -> None:
    """A corrupted position holds an id of [0, V) that is not special; the mask only where that is claimed."""
    may_write_mask = IS_ABSORBING.of(noise_type) or MAY_WRITE_MASK.of(noise_type)

    def body(rows: CorruptionRows) -> None:
        written = _corrupt(noise_type, rows)[rows.corrupted]
        if not ((written >= 0) & (written < rows.vocabulary_size)).all():
            raise AssertionError(f"writes ids outside the vocabulary of {rows.vocabulary_size}: {describe(written)}")
        is_mask = written == rows.mask_id
        if is_mask.any() and not may_write_mask:
            raise AssertionError(f"writes the mask {rows.mask_id} without claiming is_absorbing or may_write_mask")
        if (torch.isin(written, rows.special_ids) & ~is_mask).any():
            raise AssertionError(f"writes special tokens: {describe(written)}")

    for_all(corruption_rows(), body)
    body(large_rows())


@contract_property
def check_absorbing_claim(noise_type: NoiseType) -> None:
    """Where ``is_absorbing`` is claimed, every corrupted position holds the mask."""
    if not IS_ABSORBING.of(noise_type):
        return

    def body(rows: CorruptionRows) -> None:
        written = _corrupt(noise_type, rows)[rows.corrupted]
        if (written != rows.mask_id).any():
            raise AssertionError(f"claims is_absorbing, but writes {describe(written)} with the mask {rows.mask_id}")

    for_all(corruption_rows(), body)
    body(large_rows())


@contract_property
def check_changes_text(noise_type: NoiseType) -> None:
    """Most corrupted positions hold another id than before: noise is noise."""
    rows = large_rows()
    changed = (_corrupt(noise_type, rows) != rows.input_ids)[rows.corrupted].double().mean().item()
    if changed < 0.5:
        raise AssertionError(f"of {int(rows.corrupted.sum())} corrupted positions only {changed:.0%} hold another id")


@contract_property
def check_row_independent_of_batch(noise_type: NoiseType) -> None:
    """A row gets the same alone, in a batch, in another order, and with more padding."""

    def body(rows: CorruptionRows) -> None:
        num_rows, length = rows.input_ids.shape
        whole = _corrupt(noise_type, rows)
        order = list(reversed(range(num_rows)))
        require_equal(_corrupt(noise_type, rows.take(order)), whole[order], "other ids in another order")
        padded = _corrupt(noise_type, rows.padded(3))
        require_equal(padded[:, :length], whole, "other ids with more padding")
        for row in range(num_rows):
            alone = _corrupt(noise_type, rows.take([row]))
            require_equal(alone, whole[[row]], f"other ids for row {row} alone")

    for_all(corruption_rows(), body)


@contract_property
def check_pure(noise_type: NoiseType) -> None:
    """Random numbers come from the request's draws only, and the request is left as it was."""
    for_all(corruption_rows(), lambda rows: require_pure(noise_type.corrupt, rows.request()), max_examples=5)


@contract_property
def check_device_kept(noise_type: NoiseType) -> None:
    """The noisy ids are where the request is."""
    require_device_kept(lambda: _corrupt(noise_type, large_rows().to("meta")))


PROPERTIES = (
    check_shapes,
    check_clean_elsewhere,
    check_replacements_allowed,
    check_absorbing_claim,
    check_changes_text,
    check_row_independent_of_batch,
    check_pure,
    check_device_kept,
)
