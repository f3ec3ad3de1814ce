"""Keyed draws: known answers of Philox, uniformity, and what a number depends on."""

import math

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlm_plugins import KeyedDraws
from dlm_plugins.draws import philox

# Counter, key and output of philox4x32-10 in the known-answer file of Random123, the authors' library.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "output"), KNOWN_ANSWERS)
def test_philox_gives_the_known_answers(counter: str, key: str, output: str) -> None:
    c0, c1, c2, c3 = torch.tensor(words(counter)).unbind()
    k0, k1 = words(key)
    assert philox((c0, c1, c2, c3), (k0, k1)).tolist() == words(output)


def python_philox(counter: list[int], key: list[int]) -> list[int]:
    """The algorithm in Python's unbounded integers."""
    for _ in range(10):
        left, right = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [
            (right >> 32) ^ counter[1] ^ key[0],
            right % 2**32,
            (left >> 32) ^ counter[3] ^ key[1],
            left % 2**32,
        ]
        key = [(key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32]
    return counter


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(0, 2**32 - 1), min_size=6, max_size=6))
def test_philox_agrees_with_unbounded_integers(numbers: list[int]) -> None:
    c0, c1, c2, c3 = torch.tensor(numbers[:4]).unbind()
    assert philox((c0, c1, c2, c3), (numbers[4], numbers[5])).tolist() == python_philox(numbers[:4], numbers[4:])


def draws(**changes: object) -> KeyedDraws:
    base = KeyedDraws(seed=7, step=3, rows=torch.arange(5), length=9)
    return attrs.evolve(base, **changes)  # type: ignore[arg-type]


def test_numbers_are_float32_in_the_half_open_unit_interval() -> None:
    numbers = draws(rows=torch.arange(2000), length=101).per_position("x")
    assert numbers.shape == (2000, 101)
    assert numbers.dtype == torch.float32
    assert numbers.min() >= 0
    assert numbers.max() < 1


def test_numbers_are_uniform_and_uncorrelated() -> None:
    numbers = draws(rows=torch.arange(4000), length=50).per_position("x").double()
    # Chi-square over 64 bins: mean 63, variance 126; six standard deviations.
    counts = torch.histc(numbers.flatten(), bins=64, min=0, max=1)
    expected = numbers.numel() / 64
    chi_square = ((counts - expected) ** 2 / expected).sum().item()
    assert abs(chi_square - 63) < 6 * math.sqrt(126)
    centred = (numbers - 0.5) * math.sqrt(12)
    for shifted in (centred[:, 1:] * centred[:, :-1], centred[1:] * centred[:-1], centred[:, 4:] * centred[:, :-4]):
        assert abs(shifted.mean().item()) * math.sqrt(shifted.numel()) < 6


@settings(deadline=None, max_examples=40)
@given(
    rows=st.lists(st.integers(0, 10**6), min_size=1, max_size=5),
    length=st.integers(1, 20),
    padding=st.integers(0, 9),
    which=st.integers(0, 4),
)
def test_a_row_gets_the_same_alone_in_any_batch_and_with_padding(
    rows: list[int], length: int, padding: int, which: int
) -> None:
    row = which % len(rows)
    batch = draws(rows=torch.tensor(rows), length=length + padding)
    alone = draws(rows=torch.tensor([rows[row]]), length=length)
    assert torch.equal(batch.per_position("x")[row, :length], alone.per_position("x")[0])
    assert torch.equal(batch.per_row("x")[row], alone.per_row("x")[0])


def test_views_of_one_row_share_their_numbers() -> None:
    numbers = draws(rows=torch.tensor([4, 4, 2])).per_position("x")
    assert torch.equal(numbers[0], numbers[1])
    assert not torch.equal(numbers[0], numbers[2])


@pytest.mark.parametrize(
    "changes",
    [{"seed": 8}, {"step": 4}, {"step": 3 + 2**16}, {"scope": "masking"}, {"rows": torch.arange(5) + 5}],
    ids=["seed", "step", "far step", "scope", "rows"],
)
def test_every_part_of_the_key_gives_other_numbers(changes: dict[str, object]) -> None:
    numbers, others = draws().per_position("x"), draws(**changes).per_position("x")
    assert (numbers != others).all()


def test_each_purpose_has_numbers_of_its_own() -> None:
    numbers = draws(length=1)
    kinds = [
        numbers.per_position("a")[:, 0],
        numbers.per_position("b")[:, 0],
        numbers.per_row("a"),
        numbers.per_row("b"),
    ]
    assert all((left != right).all() for index, left in enumerate(kinds) for right in kinds[:index])


def test_asking_twice_gives_the_same_and_touches_no_global_generator() -> None:
    before = torch.get_rng_state()
    keyed = draws()
    assert torch.equal(keyed.per_position("x"), keyed.per_position("x"))
    assert torch.equal(torch.get_rng_state(), before)
