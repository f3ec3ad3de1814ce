"""Fine-tuning (SFT) rows: one example each, or several packed ones that cannot see each other."""

import hashlib
import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from dlm.data.conversations.bad_rows import BadRow, refuse
from dlm.data.conversations.best_fit import best_fit
from dlm.data.conversations.chat_template import ChatTemplateRendering
from dlm.data.conversations.clock import TemplateClock
from dlm.data.conversations.examples import (
    EosPadding,
    Example,
    ExampleCounts,
    ExampleMaker,
    Findings,
    LongRows,
    Reasoning,
    TrainOn,
)
from dlm.data.conversations.formats import find_format
from dlm.data.conversations.rendering import PlainRendering, Rendering
from dlm.data.rows import Row
from dlm.data.source_records import Source, SourceState
from dlm.data.token_cache import tokenized
from dlm.data.token_store import Part, TokenStore, offsets_of
from dlm.data.tokenization import with_progress
from dlm.errors import DataError

logger = logging.getLogger(__name__)

_RECORDS_PER_PART = 256
_COLUMN = "of the data set: "


@attrs.frozen(eq=False)
class ExampleStore:
    """E examples of D conversations."""

    tokens: TokenStore
    """Prompt and answer of each example as one document."""
    prompt_lengths: NDArray[np.int64]
    """(E,)"""
    conversations: NDArray[np.int64]
    """(E,) number of the conversation, not falling."""
    columns: Mapping[str, NDArray[np.float32]] = attrs.field(factory=dict)
    """(E,) each: columns of the data set that hold a number in every row that is used."""
    step_maps: NDArray[np.bytes_] | None = None
    """(E,) the denoising steps of each answer's ids, as text; None unless all examples have them."""

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """(E,) tokens of each example."""
        return np.diff(self.tokens.offsets)


@attrs.frozen(eq=False)
class ConversationRows:
    """N rows of examples. The examples of one row are its documents: positions start again with each."""

    store: ExampleStore
    examples: NDArray[np.int64]
    """Numbers of the examples, row after row."""
    offsets: NDArray[np.int64]
    """(N + 1,): row i has the examples ``examples[offsets[i] : offsets[i + 1]]``."""
    max_length: int
    pack: bool
    counts: ExampleCounts
    unused: tuple[BadRow, ...]
    """Rows of the source, or answers of them, that were not used, in their order."""
    notes: tuple[str, ...] = ()
    """Those of the source, and a line on columns and keys that nobody read, if there are any."""
    origin: tuple[str, ...] = ()
    """Where the ids came from: a line each."""
    blocks_from_start: bool = False
    """Whether blocks count from the start of the prompt instead of the answer's."""

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """(N,) number of tokens in each row."""
        return np.add.reduceat(self.store.lengths[self.examples], self.offsets[:-1])

    @cached_property
    def conversations(self) -> NDArray[np.int64]:
        """(D,) numbers of the conversations the rows are made of, rising."""
        return np.unique(self.store.conversations[self.examples])

    @property
    def document_lengths(self) -> NDArray[np.int64]:
        """(D,) number of tokens of each conversation, over all its examples."""
        owner = np.searchsorted(self.conversations, self.store.conversations[self.examples])
        totals = np.zeros(len(self.conversations), np.int64)
        np.add.at(totals, owner, self.store.lengths[self.examples])
        return totals

    @property
    def column_names(self) -> tuple[str, ...]:
        """Numeric columns each row has; none in packed rows, which are made of several."""
        return () if self.pack else tuple(self.store.columns)

    @property
    def num_tokens(self) -> int:
        """Tokens in all rows."""
        return int(self.store.lengths[self.examples].sum())

    @property
    def num_trained_tokens(self) -> int:
        """Tokens of all answers."""
        return self.num_tokens - int(self.store.prompt_lengths[self.examples].sum())

    @property
    def num_documents(self) -> int:
        """Conversations the rows are made of."""
        return len(self.conversations)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of ids, spans, rows and settings."""
        digest = hashlib.sha256(f"{self.store.tokens.digest} {self.max_length} {self.pack}".encode())
        if self.blocks_from_start:
            digest.update(b"blocks from the start")
        for array in (self.store.prompt_lengths, self.store.conversations, self.examples, self.offsets):
            digest.update(array.tobytes())
        if self.store.step_maps is not None:
            digest.update(self.store.step_maps.tobytes())
        for name in self.column_names:
            digest.update(name.encode() + self.store.columns[name].tobytes())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Row:
        numbers = self.examples[self.offsets[index] : self.offsets[index + 1]]
        starts, ends = self.store.tokens.offsets[numbers], self.store.tokens.offsets[numbers + 1]
        lengths, prompts = ends - starts, self.store.prompt_lengths[numbers]
        position = np.concatenate([np.arange(length, dtype=np.int32) for length in lengths])
        answer_start = np.repeat(prompts, lengths).astype(np.int32)
        eligible = position >= answer_start
        return Row(
            input_ids=np.concatenate(
                [self.store.tokens.span(start, end) for start, end in zip(starts, ends, strict=True)]
            ),
            document_id=np.repeat(np.arange(len(numbers), dtype=np.int32), lengths),
            position=position,
            eligible=eligible,
            answer_start=np.zeros_like(answer_start) if self.blocks_from_start else answer_start,
            answer_length=np.repeat(lengths - prompts, lengths).astype(np.int32),
            columns={name: float(self.store.columns[name][numbers[0]]) for name in self.column_names},
            committed_step=self._committed_step(numbers, prompts),
        )

    def _committed_step(self, numbers: NDArray[np.int64], prompts: NDArray[np.int64]) -> NDArray[np.int32] | None:
        if self.store.step_maps is None:
            return None
        steps = [np.array(self.store.step_maps[number].split(), np.int32) for number in numbers]
        given = [np.full(length, -1, np.int32) for length in prompts]
        return np.concatenate([part for pair in zip(given, steps, strict=True) for part in pair])

    def select(self, rows: NDArray[np.int64]) -> "ConversationRows":
        """Only these rows, in this order."""
        chosen = [self.examples[self.offsets[row] : self.offsets[row + 1]] for row in rows]
        return attrs.evolve(self, examples=np.concatenate(chosen), offsets=offsets_of([len(row) for row in chosen]))

    def select_documents(self, documents: NDArray[np.int64]) -> "ConversationRows":
        """New rows, made of these conversations alone."""
        wanted = np.isin(self.store.conversations[self.examples], self.conversations[documents])
        return _rows_of(self, np.sort(self.examples[wanted]))

    def summary(self) -> str:
        """One line for people."""
        how = f"{self.num_trained_tokens:,} of {self.num_tokens:,} tokens are trained"
        return f"{self.counts.summary()}; {len(self):,} {'packed ' if self.pack else ''}training rows, {how}"


def configured_rendering(
    tokenizer: PreTrainedTokenizerBase, *, chat_template: bool, clock: TemplateClock | None = None
) -> Rendering:
    """The way to render conversations that a run file asks for, with the time for templates that print it.

    Raises:
        DataError: the chat template is asked for, but the tokenizer has none.
    """
    if not chat_template:
        return PlainRendering(tokenizer)
    return ChatTemplateRendering(tokenizer, clock=TemplateClock() if clock is None else clock)


def conversation_rows(
    source: Source,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    format_name: str | None = None,
    chat_template: bool = False,
    train_on: TrainOn = "each_answer",
    eos_padding: EosPadding = "first",
    long_rows: LongRows = "truncate_answer",
    reasoning: Reasoning = "train",
    clock: TemplateClock | None = None,
    skip_bad_rows: bool = False,
    pack: bool = False,
    split: str | None = None,
) -> ConversationRows:
    """Read conversations and make rows of them.

    Args:
        source: rows in one of the known formats.
        tokenizer: with an end-of-text token.
        max_length: most tokens in a row, at least 2.
        format_name: a key of ``FORMATS``; None finds the format by the columns.
        chat_template: render with the tokenizer's chat template instead of plainly.
        train_on: an example for each answer, with a clean history and the future cut, or for the last one only.
        eos_padding: ``first``: the end-of-text token behind the answer is learned; ``none``: it is left out;
            ``all``: as ``first``, and the collator continues the answer with it (``Collator.trained_padding_id``).
        long_rows: cut the answer at ``max_length``, drop the example, or refuse the data set. A prompt that leaves no
            room for an answer is dropped in the first two cases.
        reasoning: train what an answer thinks before it (``<think>``, ``reasoning_content``), or leave it out.
        clock: the time for chat templates that print it; None: now.
        skip_bad_rows: go on without rows that are no conversation, instead of refusing the data set.
        pack: put several examples into a row (best fit); they must then be isolated from each other.
        split: of the source, for the cache of token ids; None: they are not kept.

    Raises:
        DataError: no format, bad or long rows that are not to be passed over, or nothing to train on.
    """
    if pack and eos_padding == "all":
        raise DataError("dataset.eos_padding: all trains the padding behind each answer, and packed rows have none")
    clock = TemplateClock() if clock is None else clock
    maker = ExampleMaker(
        format=find_format(source, format_name),
        rendering=configured_rendering(tokenizer, chat_template=chat_template, clock=clock),
        max_length=max_length,
        train_on=train_on,
        eos_padding=eos_padding,
        long_rows=long_rows,
        reasoning=reasoning,
        num_ids=len(tokenizer),
    )
    recipe = Examples(source, tokenizer, maker, format_name, chat_template, clock, skip_bad_rows)
    return recipe.rows(split, pack=pack)


def _templates(tokenizer: PreTrainedTokenizerBase, clock: TemplateClock) -> list[str]:
    """The chat templates of a tokenizer, with what they would print of the time."""
    templates = tokenizer.chat_template
    moment = clock.now.isoformat()
    written = []
    for name, template in sorted(templates.items()) if isinstance(templates, dict) else [("", templates)]:
        try:
            written.append(f"{name}: {TemplateClock(clock.now).written_into(template)}")
        except DataError:  # said where it is rendered
            written.append(f"{name}: {template} {moment}")
    return written


@attrs.define
class Examples:
    """How conversations become documents: one example each, prompt and answer."""

    source: Source
    tokenizer: PreTrainedTokenizerBase
    _maker: ExampleMaker
    _format: str | None
    """How the rows are read: another one may find other examples in them."""
    _chat_template: bool
    _clock: TemplateClock
    _skip_bad_rows: bool
    findings: Findings = attrs.field(factory=Findings, init=False)

    @property
    def settings(self) -> Mapping[str, object]:
        """As :attr:`dlm.data.token_cache.Recipe.settings`."""
        names = ("max_length", "train_on", "eos_padding", "long_rows", "reasoning")
        options = {name: getattr(self._maker, name) for name in names}
        template = _templates(self.tokenizer, self._clock) if self._chat_template else None
        return {"documents": "conversations", "format": self._format, "template": template, **options}

    def rows(self, split: str | None, *, pack: bool) -> ConversationRows:
        """All examples as rows, tokenized now or found in the cache.

        Args:
            split: of the source, for the cache of token ids; None: they are not kept.
            pack: put several examples into a row.
        """
        found, findings = tokenized(self, split), self.findings
        self._clock.was_read |= findings.clock_was_read
        store, nothing = _example_store(found.store), np.zeros(0, np.int64)
        notes = (*found.notes, *findings.unused.lines(self.source.name, used=() if pack else store.columns))
        length, unused = self._maker.max_length, findings.unused_rows
        empty = ConversationRows(store, nothing, nothing, length, pack, findings.counts, unused, notes, found.origin)
        return _rows_of(empty, np.arange(len(store.prompt_lengths)))

    def parts(self, state: SourceState | None = None) -> Iterator[Part]:
        """As :meth:`dlm.data.token_cache.Recipe.parts`.

        Raises:
            DataError: the chat template cannot be used.
        """
        maker = attrs.evolve(self._maker, findings=self.findings)
        reader = self.source.open(state)
        records = with_progress(reader, "Reading conversations", self.source.num_records)
        while group := list(itertools.islice(records, _RECORDS_PER_PART)):
            first = self.findings.counts.num_rows
            made = [(number, example) for number, record in enumerate(group, first) for example in maker(record)]
            self.findings.clock_was_read |= self._clock.was_read
            ids = [np.asarray(example.ids, np.int32) for _, example in made]
            yield Part(ids, reader.state(), _columns_of(made) if made else {})

    def check(self) -> None:
        """As :meth:`dlm.data.token_cache.Recipe.check`."""
        name, findings = self.source.name, self.findings
        if not self._skip_bad_rows:
            refuse(findings.bad_rows, "Correct them, or pass them over with dataset.on_bad_row: skip.")
        if self._maker.long_rows == "error":
            way_out = "Raise dataset.max_length, or set dataset.long_rows to truncate_answer or drop."
            refuse(findings.too_long, way_out)
        unused = findings.unused_rows
        if findings.counts.num_used_answers == 0:
            first = f" (first: {unused[0]})" if unused else ""
            raise DataError(f"{name}: no trainable token in the whole data set: {findings.counts.summary()}{first}")
        if unused:
            logger.warning("%s: %s (first: %s)", name, findings.counts.summary(), unused[0])


def _columns_of(made: Sequence[tuple[int, Example]]) -> dict[str, NDArray[Any]]:
    """What is kept of examples beside their ids, each with the number of its conversation."""
    names = sorted({name for _, example in made for name in example.columns})
    return {
        "prompt_lengths": np.asarray([example.prompt_length for _, example in made], np.int64),
        "conversations": np.asarray([number for number, _ in made], np.int64),
        "step_maps": np.asarray([" ".join(map(str, example.step_map or ())).encode() for _, example in made]),
        **{
            f"{_COLUMN}{name}": np.asarray([example.columns.get(name, np.nan) for _, example in made], np.float32)
            for name in names
        },
    }


def _example_store(tokens: TokenStore) -> ExampleStore:
    kept = {name.removeprefix(_COLUMN): values for name, values in tokens.columns.items() if name.startswith(_COLUMN)}
    step_maps = tokens.columns.get("step_maps", np.zeros(0, np.bytes_))
    in_all = sorted(name for name, values in kept.items() if not np.isnan(values).any())
    return ExampleStore(
        tokens,
        tokens.columns["prompt_lengths"],
        tokens.columns["conversations"],
        {name: kept[name] for name in in_all},
        step_maps if len(step_maps) and (step_maps != b"").all() else None,
    )


def _rows_of(rows: ConversationRows, examples: NDArray[np.int64]) -> ConversationRows:
    """The same rows made anew of these examples."""
    if not rows.pack:
        return attrs.evolve(rows, examples=examples, offsets=np.arange(len(examples) + 1))
    packed = best_fit(rows.store.lengths[examples].tolist(), rows.max_length)
    order = np.concatenate([np.asarray(row, np.int64) for row in packed])
    return attrs.evolve(rows, examples=examples[order], offsets=offsets_of([len(row) for row in packed]))
