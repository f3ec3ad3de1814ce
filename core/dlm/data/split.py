"""Hold-out: which rows are kept for evaluation, by whole documents, and how many of them are evaluated."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from dlm.data.order import epoch_order, shuffled
from dlm.data.rows import Rows
from dlm.errors import DataError

_FEWEST_DOCUMENTS = 20
_PLACES_AT_ONCE = 1 << 14
_SPLIT_EPOCH = -1
"""An epoch that never comes, so that the split is unrelated to every training order."""
_SAMPLE_EPOCH = -2
"""Another one, for the held-out rows that are evaluated."""


def split_rows(rows: Rows, fraction: float, seed: int, name: str = "the data set") -> tuple[Rows, Rows]:
    """Training and evaluation rows: the same for the same rows, fraction and seed.

    Whole documents are held out where there are at least 20 and some of them fit into the fraction; otherwise rows,
    and then the two parts may hold pieces of the same document. Each side gets at least one row.

    Args:
        rows: all rows.
        fraction: part of the tokens to hold out, in (0, 1).
        seed: seed of the choice.
        name: how messages call the data set.

    Raises:
        DataError: a fraction outside (0, 1), or fewer than two rows.
    """
    if not 0 < fraction < 1:
        raise DataError(f"evaluation.fraction is {fraction}; it must lie between 0 and 1, both excluded")
    if len(rows) < 2:
        raise DataError(
            f"{name} makes only {len(rows)} row, and training and evaluation need one each: take more data, a "
            f"smaller dataset.max_length, an evaluation.split of its own, or evaluation.do_eval_loss: false"
        )
    held_out = _documents_to_hold_out(rows, fraction, seed)
    if held_out.any():
        return rows.select_documents(np.flatnonzero(~held_out)), rows.select_documents(np.flatnonzero(held_out))
    chosen = np.zeros(len(rows), np.bool_)
    num_chosen = min(max(round(fraction * len(rows)), 1), len(rows) - 1)
    chosen[epoch_order(num_rows=len(rows), seed=seed, epoch=_SPLIT_EPOCH)[:num_chosen]] = True
    return rows.select(np.flatnonzero(~chosen)), rows.select(np.flatnonzero(chosen))


def sample_rows(rows: Rows, max_rows: int, seed: int) -> Rows:
    """At most ``max_rows`` of the rows, chosen at random by the seed alone, in the order in which they stood."""
    if len(rows) <= max_rows:
        return rows
    chosen = shuffled(np.arange(max_rows), num_rows=len(rows), seed=seed, epoch=_SAMPLE_EPOCH)
    return rows.select(np.sort(chosen))


def _documents_to_hold_out(rows: Rows, fraction: float, seed: int) -> NDArray[np.bool_]:
    """(D,): documents in random order, as many as fit; none where the sizes do not allow half of the fraction."""
    lengths = rows.document_lengths
    chosen = np.zeros(len(lengths), np.bool_)
    if len(lengths) < _FEWEST_DOCUMENTS:
        return chosen
    wanted = fraction * float(lengths.sum())
    num_tokens = 0
    for number in _in_random_order(len(lengths), seed):
        length = int(lengths[number])
        if num_tokens + length <= wanted:
            chosen[number] = True
            num_tokens += length
        elif num_tokens >= 0.95 * wanted:
            break
    return chosen if num_tokens >= wanted / 2 else np.zeros_like(chosen)


def _in_random_order(number: int, seed: int) -> Iterator[int]:
    """Documents as far as they are asked for: of millions, the first few are enough."""
    for first in range(0, number, _PLACES_AT_ONCE):
        places = np.arange(first, min(first + _PLACES_AT_ONCE, number))
        yield from shuffled(places, num_rows=number, seed=seed, epoch=_SPLIT_EPOCH).tolist()
