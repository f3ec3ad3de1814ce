"""What stands at corrupted positions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dlm_builtin_plugins.noise_types.mask import MaskNoise
from dlm_builtin_plugins.noise_types.random_replace import RandomReplaceNoise
from dlm_plugins import CorruptionRequest, KeyedDraws
from dlm_plugins.noise_type import IS_ABSORBING, MAY_WRITE_MASK


def request(
    input_ids: Tensor, corrupted: Tensor, *, vocabulary_size: int, mask_id: int, special_ids: list[int], seed: int = 0
) -> CorruptionRequest:
    num_rows, length = input_ids.shape
    return CorruptionRequest(
        input_ids=input_ids,
        corrupted=corrupted,
        mask_id=mask_id,
        vocabulary_size=vocabulary_size,
        special_ids=torch.tensor(special_ids, dtype=torch.int64),
        draws=KeyedDraws(seed=seed, step=0, rows=torch.arange(num_rows), length=length),
    )


def test_mask_noise_writes_the_mask_and_nothing_else():
    ids = torch.tensor([[4, 5, 6, 7]])
    corrupted = torch.tensor([[True, False, True, False]])
    noisy = MaskNoise().corrupt(request(ids, corrupted, vocabulary_size=9, mask_id=8, special_ids=[8]))
    assert noisy.tolist() == [[8, 5, 8, 7]]
    assert ids.tolist() == [[4, 5, 6, 7]]
    assert IS_ABSORBING.of(MaskNoise())


@settings(deadline=None, max_examples=60)
@given(data=st.data(), vocabulary_size=st.integers(4, 12), seed=st.integers(0, 99))
def test_random_replace_never_writes_original_mask_or_special_tokens(data, vocabulary_size, seed):
    special = data.draw(st.lists(st.integers(0, vocabulary_size + 2), max_size=vocabulary_size - 3), label="special")
    mask_id = data.draw(st.integers(0, vocabulary_size + 2), label="mask")
    forbidden = {*special, mask_id}
    allowed = set(range(vocabulary_size)) - forbidden
    ids = torch.arange(vocabulary_size + 3).repeat(4, 8)  # also ids beyond the vocabulary
    corrupted = torch.rand(ids.shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    asked = request(ids, corrupted, vocabulary_size=vocabulary_size, mask_id=mask_id, special_ids=special, seed=seed)
    if len(allowed) < 2:
        with pytest.raises(ValueError, match=f"this vocabulary of {vocabulary_size} ids has {len(allowed)}"):
            RandomReplaceNoise().corrupt(asked)
        return
    noisy = RandomReplaceNoise().corrupt(asked)
    assert torch.equal(noisy[~corrupted], ids[~corrupted])
    assert (noisy[corrupted] != ids[corrupted]).all()
    assert set(noisy[corrupted].tolist()) <= allowed


@pytest.mark.parametrize("original", [0, 3, 7, 9])
def test_random_replace_is_uniform_over_the_allowed_tokens(original):
    """Chi-square against equal counts; 9 is special, so that no allowed token is skipped for it."""
    num_rows, length = 500, 100
    ids = torch.full((num_rows, length), original)
    noisy = RandomReplaceNoise().corrupt(
        request(ids, torch.ones_like(ids, dtype=torch.bool), vocabulary_size=10, mask_id=1, special_ids=[1, 4, 9])
    )
    counts = noisy.flatten().bincount(minlength=10).double()
    choices = [token for token in (0, 2, 3, 5, 6, 7, 8) if token != original]
    assert counts[choices].sum() == num_rows * length
    expected = num_rows * length / len(choices)
    chi_square = float(((counts[choices] - expected) ** 2 / expected).sum())
    assert chi_square < 40  # 5 or 6 degrees of freedom: exceeded with probability below 1e-6


def test_random_replace_may_write_any_token_over_an_unknown_one():
    """A model with padded embedding rows can hold ids that the tokenizer does not know."""
    ids = torch.full((200, 10), 7)
    noisy = RandomReplaceNoise().corrupt(
        request(ids, torch.ones_like(ids, dtype=torch.bool), vocabulary_size=4, mask_id=0, special_ids=[0])
    )
    assert set(noisy.flatten().tolist()) == {1, 2, 3}


def test_random_replace_reaches_both_ends_of_a_real_vocabulary():
    size = 151_670
    ids = torch.full((2000, 128), 77)
    noisy = RandomReplaceNoise().corrupt(
        request(ids, torch.ones_like(ids, dtype=torch.bool), vocabulary_size=size, mask_id=size - 1, special_ids=[0])
    )
    assert noisy.min() < 10
    assert noisy.max() > size - 10
    assert abs(float(noisy.double().mean()) / size - 0.5) < 5 * (1 / 12) ** 0.5 / noisy.numel() ** 0.5


def test_random_replace_claims_nothing():
    assert not IS_ABSORBING.of(RandomReplaceNoise())
    assert not MAY_WRITE_MASK.of(RandomReplaceNoise())
