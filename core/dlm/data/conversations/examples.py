"""SFT examples: one prompt and one answer each, as ids, and how those longer than max_length are cut or dropped."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import attrs
import numpy as np

from dlm.data.conversations.bad_rows import BadRow, in_order
from dlm.data.conversations.formats import ConversationFormat
from dlm.data.conversations.rendering import Rendered, Rendering
from dlm.data.conversations.turns import BadRowError, Conversation
from dlm.data.conversations.unused_keys import UnusedKeys
from dlm.data.source_records import Record

TrainOn = Literal["each_answer", "last_answer"]
EosPadding = Literal["first", "all", "none"]
LongRows = Literal["truncate_answer", "drop", "error"]
Reasoning = Literal["train", "drop"]

_LARGEST = float(np.finfo(np.float32).max)
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
    step_map: Sequence[int] | None = None
    """The denoising step at which each id of the answer was written; -1 where it was not."""

    def cut(self, length: int) -> "Example":
        """The first ``length`` ids."""
        steps = None if self.step_map is None else self.step_map[: length - self.prompt_length]
        return attrs.evolve(self, ids=self.ids[:length], step_map=steps, is_truncated=True)


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
        return in_order(self.bad_rows, self.too_long)


GIVEN_COLUMNS = ("input_ids", "prompt_length", "step_map")
"""Columns of a row that comes as ids, as ``dlm generate --out`` writes it. They win over its texts."""


def is_given(values: Mapping[str, Any]) -> bool:
    """Whether a row comes as ids."""
    return values.get("input_ids") is not None and "prompt_length" in values


def given_example(values: Mapping[str, Any]) -> Example:
    """The example in a row that comes as ids.

    Raises:
        BadRowError: ids, length or steps that cannot be.
    """
    given, length, told = (values.get(name) for name in GIVEN_COLUMNS)
    ids, steps = _integers(given, least=0), _integers(told, least=-1)
    if ids is None:
        raise BadRowError("input_ids is not a list of token ids")
    if isinstance(length, bool) or not isinstance(length, int) or not 0 <= length < len(ids):
        raise BadRowError(f"prompt_length is {str(length)[:20]}; it must be a number from 0 to {len(ids) - 1}")
    if told is not None and steps is None:
        raise BadRowError("step_map is not a list of steps (numbers from 0, or -1 for what was given)")
    if steps is not None and len(steps) != len(ids) - length:
        raise BadRowError(f"step_map has {len(steps)} steps for an answer of {len(ids) - length} ids")
    return Example(ids, length, step_map=steps)


def _integers(values: Any, *, least: int) -> list[int] | None:
    if not isinstance(values, list | tuple) or not values:
        return None
    right = all(isinstance(each, int) and not isinstance(each, bool) and least <= each < 2**31 for each in values)
    return list(values) if right else None


def numeric_columns(record: Record) -> dict[str, float]:
    """The columns of a row that hold one number each, of a size that float32 has."""
    return {
        name: float(value)
        for name, value in record.values.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _LARGEST
    }


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
    num_ids: int | None = None
    """Ids of the tokenizer, for rows that come as ids; None: any are taken."""
    findings: Findings = attrs.field(factory=Findings)

    def __call__(self, record: Record) -> list[Example]:
        """The examples of one record; none if it is bad or too long."""
        self.findings.counts.num_rows += 1
        try:
            if is_given(record.values):
                return self._given(record)
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

    def _given(self, record: Record) -> list[Example]:
        """The example of a row that comes as ids."""
        example = given_example(record.values)
        if self.num_ids is not None and max(example.ids) >= self.num_ids:
            raise BadRowError(f"input_ids holds {max(example.ids)}; the tokenizer has ids below {self.num_ids}")
        if len(example.ids) > self.max_length:
            reason = f"{len(example.ids)} tokens, but dataset.max_length is {self.max_length}"
            if self.long_rows != "truncate_answer" or example.prompt_length >= self.max_length:
                self.findings.too_long.append(BadRow(record.origin, reason))
                self.findings.counts.num_answers += 1
                self.findings.counts.num_dropped_answers += 1
                self.findings.counts.num_dropped_rows += 1
                return []
            example = example.cut(self.max_length)
        counts = self.findings.counts
        counts.num_answers += 1
        counts.num_used_answers += 1
        counts.num_truncated_answers += example.is_truncated
        counts.num_used_rows += 1
        others = [name for name in record.values if name not in GIVEN_COLUMNS]
        self.findings.unused.columns.update(dict.fromkeys(others))
        return [attrs.evolve(example, columns=numeric_columns(record))]

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
