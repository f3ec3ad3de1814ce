"""Properties of noise types."""

import attrs
import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from dlm_plugins.draws import KeyedDraws
from dlm_plugins.noise_type import IS_ABSORBING, MAY_WRITE_MASK, CorruptionRequest, NoiseType
from dlm_plugins.testing.properties import contract_property, describe, for_all, require_equal, require_tensor
from dlm_plugins.testing.purity import require_device_kept, require_pure


@attrs.frozen(kw_only=True, eq=False)
class CorruptionRows:
    """B rows of L positions, as a noise type gets them."""

    input_ids: Tensor
    """(B, L) int64."""
    corrupted: Tensor
    """(B, L) bool."""
    row_index: Tensor
    """(B,) int64."""
    vocabulary_size: int
    mask_id: int
    special_ids: Tensor
    """(S,) int64."""
    seed: int = 0

    def request(self) -> CorruptionRequest:
        """These rows as a request, with their own draws."""
        draws = KeyedDraws(seed=self.seed, step=3, rows=self.row_index, length=self.input_ids.shape[1])
        return CorruptionRequest(
            input_ids=self.input_ids,
            corrupted=self.corrupted,
            mask_id=self.mask_id,
            vocabulary_size=self.vocabulary_size,
            special_ids=self.special_ids,
            draws=draws,
        )

    def take(self, rows: list[int]) -> "CorruptionRows":
        """Some of the rows, in this order."""
        names = ("input_ids", "corrupted", "row_index")
        return attrs.evolve(self, **{name: getattr(self, name)[rows] for name in names})

    def padded(self, num_positions: int) -> "CorruptionRows":
        """The rows with more positions on the right, none of them corrupted."""
        input_ids, corrupted = (F.pad(tensor, (0, num_positions)) for tensor in (self.input_ids, self.corrupted))
        return attrs.evolve(self, input_ids=input_ids, corrupted=corrupted)

    def to(self, device: str) -> "CorruptionRows":
        """The rows on another device."""
        names = ("input_ids", "corrupted", "row_index", "special_ids")
        return attrs.evolve(self, **{name: getattr(self, name).to(device) for name in names})


@st.composite
def corruption_rows(draw: st.DrawFn, max_rows: int = 3, max_length: int = 9) -> CorruptionRows:
    """Small rows: any ids, special ones and the mask too, any corrupted set, special ids anywhere."""
    num_rows, length = draw(st.integers(1, max_rows)), draw(st.integers(1, max_length))
    vocabulary_size = draw(st.integers(4, 24))
    ids = st.integers(0, vocabulary_size - 1)
    mask_id = draw(ids)
    # At least two ordinary ids are left, so that there always is a replacement other than the original.
    specials = {mask_id} | draw(st.sets(ids, max_size=vocabulary_size - 3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    patterns = [draw(st.integers(0, 2**length - 1)) for _ in range(num_rows)]
    return CorruptionRows(
        input_ids=torch.randint(vocabulary_size, (num_rows, length), generator=generator),
        corrupted=torch.tensor([[bool(pattern >> i & 1) for i in range(length)] for pattern in patterns]),
        row_index=torch.randperm(100, generator=generator)[:num_rows],
        vocabulary_size=vocabulary_size,
        mask_id=mask_id,
        special_ids=torch.tensor(sorted(specials)),
        seed=draw(st.integers(0, 1000)),
    )


def _large_rows() -> CorruptionRows:
    num_rows, length, vocabulary_size = 64, 64, 50
    input_ids = torch.arange(num_rows * length).view(num_rows, length) % vocabulary_size
    return CorruptionRows(
        input_ids=input_ids,
        corrupted=(torch.arange(num_rows * length) % 7 < 4).view(num_rows, length),
        row_index=torch.arange(num_rows),
        vocabulary_size=vocabulary_size,
        mask_id=20,
        special_ids=torch.tensor([0, 1, 20, 49]),
    )


@contract_property
def check_shapes(noise_type: NoiseType) -> None:
    """Noisy ids are (B, L) int64."""

    def body(rows: CorruptionRows) -> None:
        require_tensor(noise_type.corrupt(rows.request()), "noisy ids", rows.input_ids.shape, torch.int64)

    for_all(corruption_rows(), body)


@contract_property
def check_clean_elsewhere(noise_type: NoiseType) -> None:
    """Positions that are not corrupted keep their id."""

    def body(rows: CorruptionRows) -> None:
        noisy = noise_type.corrupt(rows.request())
        changed = (noisy != rows.input_ids) & ~rows.corrupted
        if changed.any():
            raise AssertionError(f"changes positions that are not corrupted: {describe(noisy)}")

    for_all(corruption_rows(), body)


@contract_property
def check_replacements_allowed(noise_type: NoiseType) -> None:
    """A corrupted position holds an id of [0, V) that is not special; the mask only where that is claimed."""
    may_write_mask = IS_ABSORBING.of(noise_type) or MAY_WRITE_MASK.of(noise_type)

    def body(rows: CorruptionRows) -> None:
        written = noise_type.corrupt(rows.request())[rows.corrupted]
        if not ((written >= 0) & (written < rows.vocabulary_size)).all():
            raise AssertionError(f"writes ids outside the vocabulary of {rows.vocabulary_size}: {describe(written)}")
        is_mask = written == rows.mask_id
        if is_mask.any() and not may_write_mask:
            raise AssertionError(f"writes the mask {rows.mask_id} without claiming is_absorbing or may_write_mask")
        if (torch.isin(written, rows.special_ids) & ~is_mask).any():
            raise AssertionError(f"writes special tokens: {describe(written)}")

    for_all(corruption_rows(), body)
    body(_large_rows())


@contract_property
def check_absorbing_claim(noise_type: NoiseType) -> None:
    """Where ``is_absorbing`` is claimed, every corrupted position holds the mask."""
    if not IS_ABSORBING.of(noise_type):
        return

    def body(rows: CorruptionRows) -> None:
        written = noise_type.corrupt(rows.request())[rows.corrupted]
        if (written != rows.mask_id).any():
            raise AssertionError(f"claims is_absorbing, but writes {describe(written)} with the mask {rows.mask_id}")

    for_all(corruption_rows(), body)
    body(_large_rows())


@contract_property
def check_changes_text(noise_type: NoiseType) -> None:
    """Most corrupted positions hold another id than before: noise is noise."""
    rows = _large_rows()
    changed = (noise_type.corrupt(rows.request()) != rows.input_ids)[rows.corrupted].double().mean().item()
    if changed < 0.5:
        raise AssertionError(f"of {int(rows.corrupted.sum())} corrupted positions only {changed:.0%} hold another id")


@contract_property
def check_row_independent_of_batch(noise_type: NoiseType) -> None:
    """A row gets the same alone, in a batch, in another order, and with more padding."""

    def body(rows: CorruptionRows) -> None:
        num_rows, length = rows.input_ids.shape
        whole = noise_type.corrupt(rows.request())
        order = list(reversed(range(num_rows)))
        require_equal(noise_type.corrupt(rows.take(order).request()), whole[order], "other ids in another order")
        padded = noise_type.corrupt(rows.padded(3).request())
        require_equal(padded[:, :length], whole, "other ids with more padding")
        for row in range(num_rows):
            alone = noise_type.corrupt(rows.take([row]).request())
            require_equal(alone, whole[[row]], f"other ids for row {row} alone")

    for_all(corruption_rows(), body)


@contract_property
def check_pure(noise_type: NoiseType) -> None:
    """Random numbers come from the request's draws only, and the request is left as it was."""
    for_all(corruption_rows(), lambda rows: require_pure(noise_type.corrupt, rows.request()), max_examples=5)


@contract_property
def check_device_kept(noise_type: NoiseType) -> None:
    """The noisy ids are where the request is."""
    require_device_kept(lambda: noise_type.corrupt(_large_rows().to("meta").request()))


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
