"""Preference data (DPO): a prompt with a chosen and a rejected answer, plain or as conversations, in pairs of rows."""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from dlm.data.conversations.bad_rows import BadRow
from dlm.data.conversations.clock import TemplateClock
from dlm.data.conversations.conversation_rows import (
    ConversationRows,
    Examples,
    configured_rendering,
)
from dlm.data.conversations.examples import (
    EosPadding,
    Example,
    ExampleMaker,
    LongRows,
    Reasoning,
    numeric_columns,
)
from dlm.data.conversations.formats import ANY_FORMAT, ConversationFormat, system_of, texts_of
from dlm.data.conversations.reasoning import read_answer
from dlm.data.conversations.turn_lists import read_tools, read_turn_list
from dlm.data.conversations.turns import BadRowError, Conversation, Turn, make_conversation, text_in
from dlm.data.conversations.unused_keys import Fields, UnusedKeys
from dlm.data.rows import Row
from dlm.data.source_records import Record, Source

SIDES = ("chosen", "rejected")


def read_pair(values: Mapping[str, Any], unused: UnusedKeys | None = None) -> tuple[Conversation, Conversation]:
    """The chosen and the rejected conversation in a row, which differ in their last answer alone.

    ``chosen`` and ``rejected`` are texts, lists of turns that go on from ``prompt``, or whole conversations; ``prompt``
    is a text or a list of turns, and may be missing beside whole conversations.

    Raises:
        BadRowError: it holds no such pair; with the reason.
    """
    row = Fields(values)
    system, before, read = _prompt_of(row)
    sides = []
    for name in SIDES:
        own_system, turns, keys = _turns_of(row.get(name), name, before)
        systems = {text for text in (system, own_system, system_of(row)) if text is not None}
        if len(systems) > 1:
            raise BadRowError(f"two different system texts, one of them in {name}")
        sides.append(make_conversation(turns, next(iter(systems), None), read_tools(row.get("tools"))))
        read += keys
        if not turns[-1].is_trained:
            raise BadRowError(f"{name} is context (weight 0, train false), and of a pair both answers are learned from")
    chosen, rejected = sides
    if any(side.turns[-1].role != "gpt" for side in sides):
        raise BadRowError("chosen and rejected must end with an answer")
    if (chosen.system, _said(chosen.turns[:-1])) != (rejected.system, _said(rejected.turns[:-1])):
        raise BadRowError("chosen and rejected answer different prompts")
    if unused is not None:
        unused.add(row, read)
    return chosen, rejected


def _prompt_of(row: Fields) -> tuple[str | None, list[Turn], list[Fields]]:
    given = row.get("prompt")
    if given is None:
        return None, [], []
    if isinstance(given, list | tuple):
        return read_turn_list(given, "prompt")
    return None, [Turn("human", text_in(given, "prompt"))], []


def _turns_of(value: object, name: str, before: list[Turn]) -> tuple[str | None, list[Turn], list[Fields]]:
    """All turns of one side."""
    if not isinstance(value, list | tuple):
        answer = read_answer(text_in(value, name), {}, name)
        if not before:
            raise BadRowError("prompt is missing or null")
        return None, [*before, answer], []
    system, turns, read = read_turn_list(value, name)
    if not turns or turns[0].role == "gpt":
        return system, [*before, *turns], read
    if _said(turns[: len(before)]) != _said(before):
        raise BadRowError(f"{name} does not begin with prompt")
    return system, turns, read


def _said(turns: Sequence[Turn]) -> list[tuple[object, ...]]:
    return [(turn.role, turn.text, turn.fields) for turn in turns]


@attrs.frozen(kw_only=True)
class PairMaker(ExampleMaker):
    """Makes two examples of each record, the chosen one first, or none."""

    format: ConversationFormat = ANY_FORMAT

    def __call__(self, record: Record) -> list[Example]:
        """The pair of one record."""
        counts = self.findings.counts
        counts.num_rows += 1
        try:
            if record.problem is not None:
                raise BadRowError(record.problem)
            sides = read_pair(record.values, self.findings.unused)
            if self.reasoning == "drop":
                sides = (sides[0].without_reasoning(), sides[1].without_reasoning())
            if sides[0].turns[-1] == sides[1].turns[-1]:
                raise BadRowError("chosen and rejected are the same answer")
            self.findings.unused.columns.update(dict.fromkeys(self.rendering.ignored(sides[0])))
            rendered = [self.rendering.answer(side, len(side.turns) - 1) for side in sides]
        except BadRowError as error:
            counts.num_bad_rows += 1
            self.findings.bad_rows.append(BadRow(record.origin, str(error)))
            return []
        pair = list(self._fitting(rendered, record))
        if len(pair) == 2 and pair[0].ids == pair[1].ids:
            reason = f"the answers are the same up to dataset.max_length ({self.max_length})"
            self.findings.too_long.append(BadRow(record.origin, reason))
            pair = []
        used = pair if len(pair) == 2 else []
        counts.num_answers += 2
        counts.num_used_answers += len(used)
        counts.num_dropped_answers += 2 - len(used)
        counts.num_truncated_answers += sum(example.is_truncated for example in used)
        counts.num_reasoned_answers += sum(example.has_reasoning for example in used)
        counts.num_used_rows += bool(used)
        counts.num_dropped_rows += not used
        return [attrs.evolve(example, columns=numeric_columns(record)) for example in used]


@attrs.frozen(eq=False)
class PreferenceRows:
    """N pairs. A pair is one row to the loader, so that nothing takes it apart."""

    rows: ConversationRows
    """2N: the chosen one of pair i is row 2i, the rejected one row 2i + 1."""

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """(N,) tokens of the longer one of each pair."""
        longest: NDArray[np.int64] = self.rows.lengths.reshape(-1, 2).max(axis=1)
        return longest

    @property
    def document_lengths(self) -> NDArray[np.int64]:
        """(N,) tokens of both together."""
        return self.rows.document_lengths

    @property
    def column_names(self) -> tuple[str, ...]:
        """Numeric columns of the data set."""
        return self.rows.column_names

    @property
    def num_tokens(self) -> int:
        """Tokens in all rows."""
        return self.rows.num_tokens

    @property
    def num_documents(self) -> int:
        """N."""
        return self.rows.num_documents

    @property
    def fingerprint(self) -> str:
        """As of the rows."""
        return hashlib.sha256(f"pairs {self.rows.fingerprint}".encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.rows) // 2

    def __getitem__(self, index: int) -> Row:
        return attrs.evolve(self.rows[2 * index], rejected=self.rows[2 * index + 1])

    def select(self, rows: NDArray[np.int64]) -> "PreferenceRows":
        """Only these pairs, in this order."""
        return PreferenceRows(self.rows.select(np.stack((2 * rows, 2 * rows + 1), axis=1).reshape(-1)))

    def select_documents(self, documents: NDArray[np.int64]) -> "PreferenceRows":
        """Only these pairs."""
        return PreferenceRows(self.rows.select_documents(documents))

    def summary(self) -> str:
        """One line for people."""
        return f"{len(self):,} pairs; {self.rows.summary()}"


def preference_rows(
    source: Source,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    chat_template: bool = False,
    eos_padding: EosPadding = "first",
    long_rows: LongRows = "truncate_answer",
    reasoning: Reasoning = "train",
    clock: TemplateClock | None = None,
    skip_bad_rows: bool = False,
    split: str | None = None,
) -> PreferenceRows:
    """Read pairs of answers and make rows of them; arguments as of ``conversation_rows``.

    A pair of which one answer does not fit is dropped as a whole.

    Raises:
        DataError: bad or long rows that are not to be passed over, or nothing to train on.
    """
    clock = TemplateClock() if clock is None else clock
    maker = PairMaker(
        rendering=configured_rendering(tokenizer, chat_template=chat_template, clock=clock),
        max_length=max_length,
        eos_padding=eos_padding,
        long_rows=long_rows,
        reasoning=reasoning,
    )
    recipe = Examples(source, tokenizer, maker, "preferences", chat_template, clock, skip_bad_rows)
    return PreferenceRows(recipe.rows(split, pack=False))


def read_pair_texts(source: Source) -> Iterator[str]:
    """The texts of prompts, reasoning and answers, for a tokenizer; of rows that are no pairs nothing."""
    for record in source.open():
        with contextlib.suppress(BadRowError):
            if record.problem is None:
                for side in read_pair(record.values):
                    yield from texts_of(side)
