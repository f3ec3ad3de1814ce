"""SFT examples: one prompt and one answer each, as ids, and how those longer than max_length are cut or dropped."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import attrs

from dlm.data.conversations.bad_rows import BadRow
from dlm.data.conversations.formats import ConversationFormat
from dlm.data.conversations.rendering import Rendered, Rendering
from dlm.data.conversations.turns import BadRowError, Conversation
from dlm.data.conversations.unused_keys import UnusedKeys
from dlm.data.source_records import Record

TrainOn = Literal["each_answer", "last_answer"]
EosPadding = Literal["first", "all", "none"]
LongRows = Literal["truncate_answer", "drop", "error"]
Reasoning = Literal["train", "drop"]

_ANSWERS: Mapping[TrainOn, Callable[[Conversation], tuple[int, ...]]] = {
    "each_answer": lambda conversation: conversation.answers,
    "last_answer": lambda conversation: conversation.answers[-1:],
}


@attrs.frozen
class Example:
    """A prompt and its answer."""

    ids: list[int]
    prompt_length: int
    is_truncated: bool = False
    has_reasoning: bool = False
    """Whether the answer begins with reasoning."""
    columns: Mapping[str, float] = attrs.field(factory=dict)
    """Numeric columns of the row it was made of."""


@attrs.define
class ExampleCounts:
    """What became of the rows and their answers.

    ``num_rows`` = used + bad + dropped rows; ``num_answers`` = used + dropped answers.
    """

    num_rows: int = 0
    num_used_rows: int = 0
    num_bad_rows: int = 0
    num_dropped_rows: int = 0
    """Rows of which every answer was too long."""
    num_answers: int = 0
    num_used_answers: int = 0
    num_dropped_answers: int = 0
    num_truncated_answers: int = 0
    """Used, but cut at the longest row."""
    num_reasoned_answers: int = 0
    """Used, with reasoning before the answer itself."""
    num_context_answers: int = 0
    """Not trained, because the row says so (``weight: 0``, ``train: false``); no part of ``num_answers``."""
    num_unanswered_turns: int = 0
    """Last turns of ``human`` without an answer; the turns before them were used."""

    def summary(self) -> str:
        """One line for people."""
        line = (
            f"{self.num_rows:,} rows: {self.num_used_rows:,} used, {self.num_bad_rows:,} bad, "
            f"{self.num_dropped_rows:,} dropped as too long; {self.num_used_answers:,} of {self.num_answers:,} answers"
        )
        if self.num_truncated_answers:
            line += f", {self.num_truncated_answers:,} of them cut short"
        if self.num_reasoned_answers:
            line += f", {self.num_reasoned_answers:,} of them with reasoning"
        if self.num_context_answers:
            line += f"; {self.num_context_answers:,} more answers are context (weight 0)"
        if self.num_unanswered_turns:
            line += f"; {self.num_unanswered_turns:,} last turns had no answer"
        return line


@attrs.define
class Findings:
    """What was noticed while examples were made."""

    counts: ExampleCounts = attrs.field(factory=ExampleCounts)
    bad_rows: list[BadRow] = attrs.field(factory=list)
    """Rows that are no conversation."""
    too_long: list[BadRow] = attrs.field(factory=list)
    """Rows, or answers of rows, that are too long to be used."""
    unused: UnusedKeys = attrs.field(factory=UnusedKeys)
    """Columns, and keys of turns, that nobody reads."""
    clock_was_read: bool = False
    """Whether the chat template printed the time."""

    @property
    def unused_rows(self) -> tuple[BadRow, ...]:
        """Rows, or answers of them, that were not used, in the order of the source."""
        return tuple(sorted([*self.bad_rows, *self.too_long], key=lambda bad: (bad.origin.file, bad.origin.index)))


def numeric_columns(record: Record) -> dict[str, float]:
    """The columns of a row that hold one finite number each."""
    found = {}
    for name, value in record.values.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            with contextlib.suppress(OverflowError):  # JSON has integers of any size
                found[name] = float(value)
    return {name: value for name, value in found.items() if math.isfinite(value)}


@attrs.frozen(kw_only=True)
class ExampleMaker:
    """Makes examples of records and keeps count of those it cannot use."""

    format: ConversationFormat
    rendering: Rendering
    max_length: int = attrs.field(validator=attrs.validators.ge(2))
    train_on: TrainOn = "each_answer"
    eos_padding: EosPadding = "first"
    long_rows: LongRows = "truncate_answer"
    reasoning: Reasoning = "train"
    findings: Findings = attrs.field(factory=Findings)

    def __call__(self, record: Record) -> list[Example]:
        """The examples of one record; none if it is bad or too long."""
        self.findings.counts.num_rows += 1
        try:
            conversation, rendered = self._rendered(record)
        except BadRowError as error:
            self.findings.counts.num_bad_rows += 1
            self.findings.bad_rows.append(BadRow(record.origin, str(error)))
            return []
        columns = numeric_columns(record)
        examples = [attrs.evolve(example, columns=columns) for example in self._fitting(rendered, record)]
        counts = self.findings.counts
        counts.num_answers += len(rendered)
        counts.num_used_answers += len(examples)
        counts.num_dropped_answers += len(rendered) - len(examples)
        counts.num_truncated_answers += sum(example.is_truncated for example in examples)
        counts.num_reasoned_answers += sum(example.has_reasoning for example in examples)
        counts.num_context_answers += sum(not conversation.turns[index].is_trained for index in conversation.answers)
        counts.num_unanswered_turns += conversation.turns[-1].role != "gpt"
        counts.num_used_rows += bool(examples)
        counts.num_dropped_rows += not examples
        return examples

    def _rendered(self, record: Record) -> tuple[Conversation, list[Rendered]]:
        if record.problem is not None:
            raise BadRowError(record.problem)
        conversation = self.format.parse(record.values, self.findings.unused)
        if self.reasoning == "drop":
            conversation = conversation.without_reasoning()
        answers = [index for index in _ANSWERS[self.train_on](conversation) if conversation.turns[index].is_trained]
        if not answers:
            raise BadRowError("no answer to train: each of them is context (weight 0, train false)")
        self.findings.unused.columns.update(dict.fromkeys(self.rendering.ignored(conversation)))
        return conversation, [self.rendering.answer(conversation, index) for index in answers]

    def _fitting(self, rendered: list[Rendered], record: Record) -> Iterator[Example]:
        for parts in rendered:
            # Without a trained end there is none at all: one that stays visible would tell where the answer stops.
            end = parts.end[:-1] if self.eos_padding == "none" else parts.end
            ids = [*parts.prompt, *parts.answer, *end]
            if len(ids) <= self.max_length:
                yield Example(ids, len(parts.prompt), has_reasoning=parts.has_reasoning)
                continue
            reason = f"{len(ids)} tokens, but dataset.max_length is {self.max_length}"
            if len(parts.prompt) >= self.max_length:
                reason = f"a prompt of {len(parts.prompt)} tokens leaves no room for its answer: {reason}"
            elif self.long_rows == "truncate_answer":
                yield Example(ids[: self.max_length], len(parts.prompt), True, parts.has_reasoning)
                continue
            self.findings.too_long.append(BadRow(record.origin, reason))
