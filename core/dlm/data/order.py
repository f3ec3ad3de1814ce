"""Shuffle: the order of rows as a pure function of seed and epoch, which can be asked for any place at once."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Order(Protocol):
    """Which rows stand at some places of an epoch."""

    def __call__(self, places: NDArray[np.int64], *, num_rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
        """As :func:`shuffled`; an order may also repeat rows."""
        ...


_NUM_ROUNDS = 8
_WORD = (1 << 64) - 1


def shuffled(places: NDArray[np.int64], *, num_rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Which rows stand at these places in the order of an epoch.

    A Feistel network on the smallest even number of bits that holds ``num_rows``, walked along its cycle until the
    result is a row (Black and Rogaway 2002, "Ciphers with arbitrary finite domains"): a permutation that needs neither
    memory nor a pass over the rows, so resuming at place 10^9 costs as much as at place 0.

    Args:
        places: in [0, num_rows).
        num_rows: number of rows, at least 1.
        seed: any integer; different seeds and epochs give unrelated orders.
        epoch: number of the epoch, from 0.
    """
    half_bits = max(2, -(-max(num_rows - 1, 1).bit_length() // 2))
    keys = _round_keys(seed, epoch)
    rows = _encrypt(places.astype(np.uint64), half_bits, keys)
    while (outside := rows >= np.uint64(num_rows)).any():
        rows[outside] = _encrypt(rows[outside], half_bits, keys)
    return rows.astype(np.int64)


def epoch_order(*, num_rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The whole order of an epoch: (num_rows,), a permutation."""
    return shuffled(np.arange(num_rows), num_rows=num_rows, seed=seed, epoch=epoch)


def _encrypt(values: NDArray[np.uint64], half_bits: int, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    shift, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> shift, values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return (left << shift) | right


def _round_keys(seed: int, epoch: int) -> NDArray[np.uint64]:
    start = _mix(np.array([seed & _WORD], np.uint64))
    start = _mix(start ^ np.array([epoch & _WORD], np.uint64))
    return _mix(start + np.arange(1, _NUM_ROUNDS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014): all bits in move all bits out, modulo 2^64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
