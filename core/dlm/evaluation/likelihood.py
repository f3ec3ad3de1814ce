"""``dlm.log_likelihood`` and ``dlm.perplexity``: likelihood of texts with intervals; long texts in windows."""

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, TypeAlias

import attrs
import numpy as np
import torch
from torch import Tensor

from dlm.config.eval_options import DEFAULT_BATCH_TOKENS, DEFAULT_DRAWS, Method, problem_with_draws
from dlm.data.conversations.rendering import encode_text
from dlm.data.rows import Row
from dlm.errors import UserInputError
from dlm.evaluation.estimates import Estimate, estimate
from dlm.evaluation.intervals import Figure, ratio_figure
from dlm.evaluation.mask_designs import METHODS, DrawNumbers, Floats, Part, PartRequest
from dlm.evaluation.scoring import Job, Scorer
from dlm.model.tokenizer import num_ids
from dlm.sampling.resolve import context_of

Text: TypeAlias = str | Sequence[int] | Tensor
"""A text, for which a tokenizer is needed, or its ids."""


@attrs.frozen(kw_only=True, eq=False)
class LogLikelihood:
    """Of N continuations, in nats."""

    values: Tensor
    """(N,) float64: log p(continuation | context), or a lower bound on it; the number of tokens is given."""
    standard_errors: Tensor
    """(N,) float64: of the draws; 0 where the value is exact."""
    num_tokens: Tensor
    """(N,) int64: tokens of each continuation."""
    is_exact: Tensor
    """(N,) bool: whether nothing was drawn."""
    num_rows: int
    """Rows that went through the model."""


@attrs.frozen(kw_only=True, eq=False)
class ScoredText:
    """A row that is scored as one text."""

    row: Row
    key: int
    """64 bits of its context, or of the text where there is none: options of one question share their draws."""

    @property
    def length(self) -> int:
        """L, scored tokens."""
        return int(self.row.eligible.sum())

    @classmethod
    def of_ids(cls, context: Sequence[int], continuation: Sequence[int], blocks_from_start: bool) -> "ScoredText":
        """A continuation after its context."""
        ids = np.array([*context, *continuation], dtype=np.int32)
        start = 0 if blocks_from_start else len(context)
        row = Row(
            input_ids=ids,
            document_id=np.zeros(len(ids), dtype=np.int32),
            position=np.arange(len(ids), dtype=np.int32),
            eligible=np.arange(len(ids)) >= len(context),
            answer_start=np.full(len(ids), start, dtype=np.int32),
        )
        return cls(row=row, key=text_key(context or continuation))


def text_key(ids: Sequence[int] | np.ndarray[Any, np.dtype[np.int32]]) -> int:
    """What the draws of a text are keyed by, 64 bits."""
    return int.from_bytes(blake2b(np.asarray(ids, dtype="<i4").tobytes(), digest_size=8).digest(), "little")


def log_likelihood(
    model: Any,
    contexts: Sequence[Text],
    continuations: Sequence[Text],
    *,
    tokenizer: Any = None,
    method: Method = "bound",
    draws: int = DEFAULT_DRAWS,
    seed: int = 0,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> LogLikelihood:
    """Score each continuation after its context.

    Args:
        model: a diffusion language model (``dlm.load``).
        contexts: N texts, or their ids; empty ones are allowed.
        continuations: N texts, or their ids, of at least one token.
        tokenizer: the model's; needed for texts, and leaves rows of the embedding that stand for no text out.
        method: ``bound`` is the any-order bound (the ELBO), exact where 2^L - 1 masks are no more than ``draws`` and,
            for a model with blocks that are scored apart, block by block; ``chain_rule`` reads left to right in L
            forwards; ``all_masked`` is one forward, and no bound; ``autoregressive`` is one forward too, in which each
            token sees those before it alone: the likelihood of the decoder that the weights are of.
        draws: masks for each text, an even number; more halve the variance as often as they double.
        seed: of the draws. They depend on it, on the context (without one on the text) and on the draw's number alone,
            so that options of a question, and two models, are asked about the same masks.
        batch_tokens: most positions in one forward.

    Raises:
        UserInputError: an empty continuation, one that does not fit the context, or a value out of range; nothing
            before a text that is to be read as decoders do.
        ModelError: a model that cannot be scored.
    """
    if len(contexts) != len(continuations):
        raise UserInputError(f"{len(contexts)} contexts for {len(continuations)} continuations: one each is needed")
    scorer = Scorer.of(model, num_ids=None if tokenizer is None else num_ids(tokenizer), batch_tokens=batch_tokens)
    room, texts = context_of(model.config), []
    for number, (context, continuation) in enumerate(zip(contexts, continuations, strict=True)):
        before, after = _ids(context, tokenizer), _ids(continuation, tokenizer)
        if not after:
            raise UserInputError(f"continuation {number} is empty: nothing to score")
        if room is not None and len(before) + len(after) > room:
            raise UserInputError(
                f"text {number} has {len(before) + len(after)} tokens; the model's context is {room}: "
                "dlm.perplexity scores long texts in windows"
            )
        texts.append(ScoredText.of_ids(before, after, scorer.blocks_from_start))
    estimates, num_rows = score_texts(scorer, texts, method=method, draws=draws, seed=seed)
    return LogLikelihood(
        values=torch.tensor([-each.value for each in estimates], dtype=torch.float64),
        standard_errors=torch.tensor([each.variance**0.5 for each in estimates], dtype=torch.float64),
        num_tokens=torch.tensor([text.length for text in texts]),
        is_exact=torch.tensor([each.num_draws == 0 for each in estimates]),
        num_rows=num_rows,
    )


def score_texts(
    scorer: Scorer,
    texts: Sequence[ScoredText],
    *,
    method: Method,
    draws: int,
    seed: int,
    on_rows: Callable[[int], None] | None = None,
) -> tuple[list[Estimate], int]:
    """-log p of each text, or the bound on it, and the number of rows that went through the model.

    Raises:
        UserInputError: a number of draws, or a method, that is not allowed; a text that a method cannot score.
    """
    check_draws(draws)
    if method not in METHODS:
        raise UserInputError(f"method {method!r}; use one of {', '.join(METHODS)}")
    if METHODS[method].is_causal:
        _check_context(texts, method)
        scorer = scorer.causal
    designed = [design_of(scorer, text, method, DrawNumbers.of_text(draws), seed) for text in texts]
    scores = scorer.score([each.job for each in designed], on_rows=on_rows)
    estimates = [each.estimate(score.cross_entropy) for each, score in zip(designed, scores, strict=True)]
    return estimates, sum(len(each.job.masked) for each in designed)


def _check_context(texts: Sequence[ScoredText], method: Method) -> None:
    if any(text.row.eligible[0] for text in texts):
        raise UserInputError(
            f"method {method} scores what follows a context, and a text has none: give it one, or choose another method"
        )


def check_draws(draws: int) -> None:
    """Refuse what gives no interval.

    Raises:
        UserInputError: an odd number, or less than two.
    """
    if problem := problem_with_draws(draws):
        raise UserInputError(problem)


@attrs.frozen(kw_only=True, eq=False)
class DesignedText:
    """A text with the masks it is scored under."""

    parts: Sequence[Part]
    columns: Sequence[np.ndarray[Any, np.dtype[np.int64]]]
    """Positions in the row of each part's tokens."""
    job: Job

    def of_parts(self, values: Floats) -> list[Floats]:
        """What each part has of values (n, T) of the job."""
        return [values[: len(part.masked), own] for part, own in zip(self.parts, self.columns, strict=True)]

    def estimate(self, cross_entropy: Floats) -> Estimate:
        """From the cross-entropies (n, T) of the job."""
        return estimate(self.parts, self.of_parts(cross_entropy))

    @property
    def mask_rates(self) -> Floats:
        """(n, T): share of the tokens of its part that is hidden, at each token."""
        rates = np.zeros(self.job.masked.shape)
        for part, own in zip(self.parts, self.columns, strict=True):
            rates[: len(part.masked), own] = part.masked.mean(axis=1, keepdims=True)
        return rates


def design_of(
    scorer: Scorer,
    text: ScoredText,
    method: Method,
    draws: DrawNumbers,
    seed: int,
    place: Floats | None = None,
    num_places: int = 1,
) -> DesignedText:
    """The masks of a text: all its parts under their own, in the same forwards."""
    columns = scorer.parts_of(text.row)
    parts = [
        METHODS[method].design(
            PartRequest(
                length=len(own), key=text.key, number=number, seed=seed, draws=draws, place=place, num_places=num_places
            )
        )
        for number, own in enumerate(columns)
    ]
    return DesignedText(parts=parts, columns=columns, job=job_of(text.row, parts, columns))


def job_of(row: Row, parts: Sequence[Part], columns: Sequence[np.ndarray[Any, np.dtype[np.int64]]]) -> Job:
    """The masks of all parts, side by side in as many rows as the longest has."""
    shape = max(len(part.masked) for part in parts), len(row.input_ids)
    masked, scored = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    for part, own in zip(parts, columns, strict=True):
        masked[: len(part.masked), own] = part.masked
        scored[: len(part.masked), own] = part.weight != 0
    return Job(row=row, masked=masked, scored=scored)


@attrs.frozen(kw_only=True, eq=False)
class Perplexity:
    """Of texts, with half widths of 95 % intervals. Everything is an upper bound where the method is one."""

    nats_per_token: Figure
    bits_per_byte: Figure | None
    """None for ids, whose bytes nobody knows."""
    perplexity: float
    """exp of ``nats_per_token``."""
    num_tokens: int
    num_windows: int
    """More than the texts where some are longer than the context."""
    overlap: int
    """Tokens that a window after the first sees of what precedes it."""
    num_rows: int


def perplexity(
    model: Any,
    texts: Sequence[Text],
    *,
    tokenizer: Any = None,
    method: Method = "bound",
    draws: int = DEFAULT_DRAWS,
    seed: int = 0,
    window: int | None = None,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> Perplexity:
    """Nats a token, bits a byte and perplexity of texts.

    Args:
        model, tokenizer, method, draws, seed, batch_tokens: as for :func:`log_likelihood`.
        texts: at least one, none empty.
        window: tokens that are scored at once, at most; None: the model's context. A longer text is scored piece by
            piece, each after the half window before it.

    Raises:
        UserInputError: no text, an empty one, or a value out of range.
        ModelError: a model that cannot be scored.
    """
    scorer = Scorer.of(model, num_ids=None if tokenizer is None else num_ids(tokenizer), batch_tokens=batch_tokens)
    room = window_of(model.config, window)
    rows = [_ids(text, tokenizer) for text in texts]
    if not rows:
        raise UserInputError("no text to score")
    if [] in rows:
        raise UserInputError(f"text {rows.index([])} is empty: nothing to score")
    pieces = [(index, *piece) for index, ids in enumerate(rows) for piece in windows(ids, room)]
    scored = [ScoredText.of_ids(before, after, scorer.blocks_from_start) for _, before, after in pieces]
    estimates, num_rows = score_texts(scorer, scored, method=method, draws=draws, seed=seed)
    values, variance, pairs = np.zeros(len(rows)), 0.0, 0
    for (index, _, _), each in zip(pieces, estimates, strict=True):
        values[index] += each.value
        variance += each.variance
        pairs += len(each.pair_differences)
    lengths = np.array([len(ids) for ids in rows], dtype=np.float64)
    nats = ratio_figure(values, lengths, draws_variance=variance, pairs=pairs)
    num_bytes = [len(text.encode("utf-8", "replace")) for text in texts if isinstance(text, str)]
    return Perplexity(
        nats_per_token=nats,
        bits_per_byte=None
        if len(num_bytes) < len(rows)
        else ratio_figure(values, np.array(num_bytes, dtype=np.float64), draws_variance=variance, pairs=pairs).scaled(
            1 / np.log(2)
        ),
        perplexity=float(np.exp(nats.value)),
        num_tokens=int(lengths.sum()),
        num_windows=len(pieces),
        overlap=room // 2 if len(pieces) > len(rows) else 0,
        num_rows=num_rows,
    )


def window_of(config: Any, wanted: int | None) -> int:
    """Tokens of a window.

    Raises:
        UserInputError: more than the model has room for, or less than two.
    """
    room = context_of(config)
    if wanted is not None and (wanted < 2 or (room is not None and wanted > room)):
        raise UserInputError(f"window is {wanted}; it must lie between 2 and the model's context, {room}")
    return wanted or room or (1 << 30)


def windows(ids: Sequence[int], size: int) -> list[tuple[Sequence[int], Sequence[int]]]:
    """Context and scored tokens of each window of a text; every token is scored once.

    The first window has no context; each of the others has ``size // 2`` tokens before what it scores.
    """
    overlap = size // 2
    starts = [0, *range(size, len(ids), size - overlap)]
    ends = [*starts[1:], len(ids)]
    return [(ids[max(start - overlap, 0) : start], ids[start:end]) for start, end in zip(starts, ends, strict=True)]


def _ids(text: Text, tokenizer: Any) -> list[int]:
    if not isinstance(text, str):
        return [int(each) for each in text]
    if tokenizer is None:
        raise UserInputError("texts need tokenizer=...: the model's own (or hand over ids)")
    return encode_text(text, tokenizer)
