"""Likelihood of many rows: draws are added round by round until the interval is narrow enough; paired differences."""

from collections import Counter
from collections.abc import Callable, Sequence
from math import log

import attrs
import numpy as np
from numpy.typing import NDArray

from dlm.config.eval_options import DRAWS_PER_ROUND
from dlm.data.rows import Row
from dlm.evaluation.estimates import Estimate, estimate
from dlm.evaluation.intervals import Figure, ratio_figure
from dlm.evaluation.likelihood import DesignedText, ScoredText, design_of, text_key
from dlm.evaluation.mask_designs import Bools, DrawNumbers, Floats, Part, places_of
from dlm.evaluation.scoring import Scorer, Scores

STRATA_PER_ROUND = 4
NUM_BINS = 10
"""Of mask rates, and of confidences."""


@attrs.define(kw_only=True, eq=False)
class Bins:
    """Sums over scored positions, by bin of something in [0, 1]: (NUM_BINS,) each."""

    count: Floats = attrs.field(factory=lambda: np.zeros(NUM_BINS))
    correct: Floats = attrs.field(factory=lambda: np.zeros(NUM_BINS))
    cross_entropy: Floats = attrs.field(factory=lambda: np.zeros(NUM_BINS))
    confidence: Floats = attrs.field(factory=lambda: np.zeros(NUM_BINS))

    def add(self, by: Floats, scores: Scores, where: Bools) -> None:
        """Count the positions ``where`` at their values of ``by``, both (n, T)."""
        index = (by[where] * NUM_BINS).astype(int).clip(max=NUM_BINS - 1)
        for name in ("correct", "cross_entropy", "confidence"):
            getattr(self, name)[:] += np.bincount(index, getattr(scores, name)[where], NUM_BINS)
        self.count += np.bincount(index, minlength=NUM_BINS)


@attrs.frozen(kw_only=True)
class Progress:
    """How far a measurement is."""

    draws: int
    """Of each row so far."""
    num_rows: int
    """Rows that went through the model."""
    nats_per_token: Figure | None
    """None before the first round has ended."""


@attrs.frozen(kw_only=True, eq=False)
class Measurement:
    """Of R rows."""

    estimates: Sequence[Estimate]
    num_tokens: Floats
    """(R,) scored tokens."""
    num_bytes: Floats
    """(R,) UTF-8 bytes of the scored tokens; those that end a text have none."""
    by_rate: Bins
    by_confidence: Bins
    draws: int
    num_rows: int
    """Rows that went through the model."""
    is_precise: bool
    """Whether the interval of the draws is as narrow as was asked for."""

    @property
    def values(self) -> Floats:
        """(R,) nats."""
        return np.array([each.value for each in self.estimates])

    @property
    def nats_per_token(self) -> Figure:
        """The figure to compare models with one tokenizer by."""
        return _figure(self.estimates, self.num_tokens)

    @property
    def bits_per_byte(self) -> Figure:
        """The figure that does not depend on the tokenizer."""
        return _figure(self.estimates, self.num_bytes).scaled(1 / log(2))

    def minus(self, other: "Measurement", per: str = "num_tokens") -> Figure:
        """What this model needs more than another for the same rows, in nats a token or a byte.

        Where both were asked about the same masks, what the masks have in common cancels.
        """
        values, variance, pairs = self.values - other.values, 0.0, 0
        for mine, theirs in zip(self.estimates, other.estimates, strict=True):
            pairs += len(mine.pair_differences)
            if mine.num_draws == theirs.num_draws and len(mine.pair_differences) == len(theirs.pair_differences):
                both = attrs.evolve(mine, pair_differences=mine.pair_differences - theirs.pair_differences)
                variance += both.variance
            else:
                variance += mine.variance + theirs.variance
        return ratio_figure(values, getattr(self, per), draws_variance=variance, pairs=pairs)


def _figure(estimates: Sequence[Estimate], denominators: Floats) -> Figure:
    return ratio_figure(
        np.array([each.value for each in estimates]),
        denominators,
        draws_variance=sum(each.variance for each in estimates),
        pairs=sum(len(each.pair_differences) for each in estimates),
    )


@attrs.define(eq=False)
class _Pieces:
    """What is known of one row: its parts with the draws so far, and their cross-entropies."""

    parts: list[Part]
    cross_entropies: list[Floats]

    @classmethod
    def of(cls, designed: DesignedText, scores: Scores) -> "_Pieces":
        return cls(list(designed.parts), designed.of_parts(scores.cross_entropy))

    def add(self, more: "_Pieces") -> None:
        for index, part in enumerate(more.parts):
            if part.stratum_weight is None:
                continue
            mine = self.parts[index]
            assert mine.stratum_weight is not None
            self.parts[index] = Part(
                masked=np.concatenate([mine.masked, part.masked]),
                weight=np.concatenate([mine.weight, part.weight]),
                stratum_weight=np.concatenate([mine.stratum_weight, part.stratum_weight]),
            )
            self.cross_entropies[index] = np.concatenate([self.cross_entropies[index], more.cross_entropies[index]])

    @property
    def is_exact(self) -> bool:
        return all(part.stratum_weight is None for part in self.parts)


def measure(
    scorer: Scorer,
    rows: Sequence[Row],
    num_bytes: Sequence[int],
    *,
    seed: int = 0,
    precision: float = 0.01,
    max_draws: int = 64,
    isolate_documents: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> Measurement:
    """Measure rows until the interval of the draws is within ``precision`` of the value.

    Each round makes two replicates of four strata, spread over the rows by their keys. Parts with few masks are
    enumerated in the first.

    Args:
        scorer: of the model.
        rows: R rows; those without a scored token are left out by the caller.
        num_bytes: (R,) of the scored tokens.
        seed: of the draws.
        precision: half width over value, in (0, 1).
        max_draws: of each row, a multiple of ``DRAWS_PER_ROUND``.
        isolate_documents: whether documents of one row are hidden from each other.
        on_progress: called after each forward and each round.
    """
    texts = _keyed(rows)
    lengths, keys = _lengths(texts), np.array([text.key for text in texts], dtype=np.uint64)
    by_rate, by_confidence, pieces = Bins(), Bins(), list[_Pieces]()
    num_rows, figure, estimates = 0, None, list[Estimate]()
    for draws in range(DRAWS_PER_ROUND, max_draws + 1, DRAWS_PER_ROUND):
        numbers = DrawNumbers(first=draws - DRAWS_PER_ROUND, stop=draws, strata=STRATA_PER_ROUND)
        places = places_of(keys, numbers, seed)
        left = [index for index in range(len(texts)) if not pieces or not pieces[index].is_exact]
        designed = [design_of(scorer, texts[i], "bound", numbers, seed, places[i], len(texts)) for i in left]
        count = _Count(on_progress, numbers.first, num_rows, figure)
        scores = scorer.score([each.job for each in designed], isolate_documents=isolate_documents, on_rows=count)
        num_rows = count.num_rows
        for index, one, score in zip(left, designed, scores, strict=True):
            by_rate.add(one.mask_rates, score, one.job.scored)
            by_confidence.add(score.confidence, score, one.job.scored)
            _take(pieces, index, _Pieces.of(one, score))
        estimates = [estimate(each.parts, each.cross_entropies) for each in pieces]
        figure = _figure(estimates, lengths)
        if figure.relative <= precision:
            break
    assert figure is not None
    return Measurement(
        estimates=estimates,
        num_tokens=lengths,
        num_bytes=np.array(num_bytes, dtype=np.float64),
        by_rate=by_rate,
        by_confidence=by_confidence,
        draws=draws,
        num_rows=num_rows,
        is_precise=figure.relative <= precision,
    )


@attrs.define
class _Count:
    """Counts rows within a round, and tells of them."""

    on_progress: Callable[[Progress], None] | None
    draws: int
    num_rows: int
    figure: Figure | None

    def __call__(self, more: int) -> None:
        self.num_rows += more
        if self.on_progress is not None:
            self.on_progress(Progress(draws=self.draws, num_rows=self.num_rows, nats_per_token=self.figure))


def _take(pieces: list[_Pieces], index: int, found: _Pieces) -> None:
    """Note what a round says of a row; in the first round the rows come in order."""
    if index == len(pieces):
        pieces.append(found)
    else:
        pieces[index].add(found)


def _keyed(rows: Sequence[Row]) -> list[ScoredText]:
    """Rows with the keys of their draws: a text that comes again has others, as its noise would not average out."""
    times, texts = Counter[int](), list[ScoredText]()
    for row in rows:
        key = text_key(row.input_ids[row.eligible])
        texts.append(ScoredText(row=row, key=text_key([*key.to_bytes(8, "little"), times[key]]) if times[key] else key))
        times[key] += 1
    return texts


def _lengths(texts: Sequence[ScoredText]) -> NDArray[np.float64]:
    return np.array([text.length for text in texts], dtype=np.float64)
