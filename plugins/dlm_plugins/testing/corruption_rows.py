"""Rows for noise types: small ones that hypothesis shrinks, and a large batch."""

import attrs
import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from dlm_plugins.draws import KeyedDraws
from dlm_plugins.noise_type import CorruptionRequest
from dlm_plugins.testing.choices import Choices, sized_cases


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


def corruption_rows() -> st.SearchStrategy[CorruptionRows]:
    """Small rows: any ids, special ones and the mask too, any corrupted set, special ids anywhere."""

    def make(choices: Choices, num_rows: int, length: int) -> CorruptionRows:
        vocabulary_size = choices.randint(4, 24)
        mask_id = choices.randrange(vocabulary_size)
        # At least two ordinary ids are left, so that there always is a replacement other than the original.
        specials = {mask_id, *choices.sample(range(vocabulary_size), choices.randint(0, vocabulary_size - 3))}
        generator = choices.generator()
        return CorruptionRows(
            input_ids=torch.randint(vocabulary_size, (num_rows, length), generator=generator),
            corrupted=torch.stack([choices.bits(length) for _ in range(num_rows)]),
            row_index=torch.randperm(100, generator=generator)[:num_rows],
            vocabulary_size=vocabulary_size,
            mask_id=mask_id,
            special_ids=torch.tensor(sorted(specials)),
            seed=choices.randrange(1000),
        )

    return sized_cases(make)


def large_rows() -> CorruptionRows:
    """64 rows of 64 positions, more than half of them corrupted."""
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
