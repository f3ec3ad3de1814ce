"""Mixture: rows of several data sets by weight, in an order that any place of can be asked for at once."""

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property

import attrs
import numpy as np
from numpy.typing import NDArray

from dlm.data.order import shuffled
from dlm.data.rows import Row, Rows
from dlm.data.token_store import offsets_of

_PERIOD = 1 << 16
"""After so many rows each source has had exactly its share, and the pattern begins anew."""


@attrs.frozen(eq=False)
class MixedRows:
    """The rows of several sources, one source after the other.

    An epoch has as many rows as all sources together. Of each stretch of it a source has its share, to within about a
    row; it is gone through in an order of its own, once before any of its rows comes again, beyond the ends of epochs.
    """

    parts: tuple[Rows, ...]
    names: tuple[str, ...]
    weights: tuple[float, ...]

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """(N,) number of tokens in each row."""
        return np.concatenate([part.lengths for part in self.parts])

    @property
    def document_lengths(self) -> NDArray[np.int64]:
        """(D,) number of tokens in each document."""
        return np.concatenate([part.document_lengths for part in self.parts])

    @property
    def num_tokens(self) -> int:
        """Tokens in all rows."""
        return sum(part.num_tokens for part in self.parts)

    @property
    def num_documents(self) -> int:
        """Documents of all sources."""
        return sum(part.num_documents for part in self.parts)

    @property
    def column_names(self) -> tuple[str, ...]:
        """Numeric columns that each row of each source has."""
        first, *others = (part.column_names for part in self.parts)
        return tuple(name for name in first if all(name in other for other in others))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the rows and weights."""
        facts = [[part.fingerprint for part in self.parts], self.shares.tolist()]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    @cached_property
    def shares(self) -> NDArray[np.float64]:
        """(S,) share of each source in the rows."""
        weights = np.asarray(self.weights, np.float64)
        return np.asarray(weights / weights.sum(), np.float64)

    def __len__(self) -> int:
        return int(self._offsets[-1])

    def __getitem__(self, index: int) -> Row:
        number = int(self._offsets.searchsorted(index, side="right")) - 1
        return self.parts[number][index - int(self._offsets[number])]

    def select(self, rows: NDArray[np.int64]) -> "MixedRows":
        """Only these rows, which rise; a source that has none of them is gone."""
        own = _own(rows, self._offsets)
        return self._of({number: self.parts[number].select(each) for number, each in own.items()})

    def select_documents(self, documents: NDArray[np.int64]) -> "MixedRows":
        """Rows made of these documents alone, which rise."""
        own = _own(documents, offsets_of([len(part.document_lengths) for part in self.parts]))
        return self._of({number: self.parts[number].select_documents(each) for number, each in own.items()})

    def summary(self) -> str:
        """One line for people."""
        named = zip(self.names, self.shares, self.parts, strict=True)
        return "mixture of " + "; ".join(f"{share:.4g} {name} ({part.summary()})" for name, share, part in named)

    def order(self, places: NDArray[np.int64], *, num_rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
        """As :func:`dlm.data.order.shuffled`, by weight."""
        sources, turns, counts = self._pattern
        period, at = np.divmod(epoch * num_rows + places, _PERIOD)
        chosen = sources[at]
        turn = period * counts[chosen] + turns[at]
        rows = np.empty_like(places)
        for number, part in enumerate(self.parts):
            is_own = chosen == number
            passes, place = np.divmod(turn[is_own], len(part))
            own = np.empty_like(place)
            for each in np.unique(passes):
                of_pass = passes == each
                # Sources of equal size would otherwise be gone through in the same order.
                own_seed = seed + (number << 32)
                own[of_pass] = shuffled(place[of_pass], num_rows=len(part), seed=own_seed, epoch=int(each))
            rows[is_own] = own + self._offsets[number]
        return rows

    @cached_property
    def _offsets(self) -> NDArray[np.int64]:
        """(S + 1,) where the rows of each source start."""
        return offsets_of([len(part) for part in self.parts])

    @cached_property
    def _pattern(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """(_PERIOD,) which source has each place, and its how many-th it is there; (S,) places of each."""
        counts = _rounded(self.shares, _PERIOD)
        turns = np.concatenate([np.arange(count) for count in counts])
        sources = np.repeat(np.arange(len(counts)), counts)
        even = np.argsort((turns + 0.5) / counts[sources], kind="stable")
        return sources[even], turns[even], counts

    def _of(self, parts: Mapping[int, Rows]) -> "MixedRows":
        names, weights = tuple(self.names[number] for number in parts), tuple(self.weights[number] for number in parts)
        return MixedRows(tuple(parts.values()), names, weights)


def _own(numbers: NDArray[np.int64], offsets: NDArray[np.int64]) -> dict[int, NDArray[np.int64]]:
    """Which of the rising numbers lie in which stretch, counted from its start; none where there are none."""
    cuts = numbers.searchsorted(offsets)
    own = {k: numbers[cuts[k] : cuts[k + 1]] - offsets[k] for k in range(len(offsets) - 1)}
    return {number: each for number, each in own.items() if len(each)}


def _rounded(shares: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """Whole numbers, at least 1 each, that add up to ``total`` (largest remainders)."""
    exact = shares * (total - len(shares))
    counts = np.floor(exact).astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: total - len(shares) - counts.sum()]] += 1
    return counts + 1
