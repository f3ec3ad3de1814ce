"""The shapes conversations come in, one parser each, and which one a row has (ShareGPT, messages, Alpaca)."""

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import attrs

from dlm.data.conversations.reasoning import FIELDS, read_answer
from dlm.data.conversations.turn_lists import read_tools, read_turn_list
from dlm.data.conversations.turns import BadRowError, Conversation, Turn, make_conversation, optional_text, text_in
from dlm.data.conversations.unused_keys import Fields, UnusedKeys
from dlm.data.source_records import Source
from dlm.data.sources import among_the_first, first_records
from dlm.errors import DataError

_SYSTEM_COLUMNS = ("system", "system_prompt")
_RESPONSES = ("response", "completion")


@attrs.frozen
class ConversationFormat:
    """How a row becomes a conversation."""

    description: str
    matches: Callable[[Collection[str]], bool]
    """Whether a row with these columns may be in this format."""
    _parse: Callable[[Fields, UnusedKeys], Conversation]

    def parse(self, values: Mapping[str, Any], unused: UnusedKeys | None = None) -> Conversation:
        """The conversation in a row.

        Args:
            values: the row.
            unused: takes note of keys that are not read.

        Raises:
            BadRowError: it is none; with the reason.
        """
        return self._parse(Fields(values), UnusedKeys() if unused is None else unused)


def _turn_list(column: str) -> Callable[[Fields, UnusedKeys], Conversation]:
    """A list of turns, and the system text in a column of its own or as the first turn."""

    def parse(row: Fields, unused: UnusedKeys) -> Conversation:
        first, turns, read = read_turn_list(row.get(column), column)
        system = system_of(row)
        if system is not None and first is not None and system != first:
            raise BadRowError("two different system texts: in the column and in the first turn")
        conversation = make_conversation(turns, system or first, read_tools(row.get("tools")))
        unused.add(row, read)
        return conversation

    return parse


def _prompt_response(row: Fields, unused: UnusedKeys) -> Conversation:
    present = [name for name in _RESPONSES if name in row.values] or _RESPONSES
    column = next((name for name in present if row.has(name)), present[0])
    return _question_and_answer(text_in(row.get("prompt"), "prompt"), row, column, unused)


def _instruction(row: Fields, unused: UnusedKeys) -> Conversation:
    instruction = text_in(row.get("instruction"), "instruction")
    extra = optional_text(row.get("input"), "input")
    question = instruction if extra is None else f"{instruction}\n\n{extra}"
    return _question_and_answer(question, row, "output", unused)


def _question_and_answer(question: str, row: Fields, column: str, unused: UnusedKeys) -> Conversation:
    reasoning = {field: row.get(field) for field in FIELDS if row.has(field)}
    answer = read_answer(text_in(row.get(column), column), reasoning, column)
    turns = [*_history(row.get("history")), Turn("human", question), answer]
    conversation = make_conversation(turns, system_of(row), read_tools(row.get("tools")))
    unused.add(row)
    return conversation


def _history(value: object) -> Iterator[Turn]:
    """Earlier rounds: pairs of a question and its answer."""
    if value is None:
        return
    if not isinstance(value, (list, tuple)):
        raise BadRowError(f"history is not a list but {type(value).__name__}")
    for number, pair in enumerate(value, 1):
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise BadRowError(f"round {number} of history is no pair [question, answer]")
        question, answer = f"question {number} of history", f"answer {number} of history"
        yield Turn("human", text_in(pair[0], question))
        yield read_answer(text_in(pair[1], answer), {}, answer)


def system_of(row: Fields) -> str | None:
    """The system text in a column of its own, if there is one.

    Raises:
        BadRowError: there are two.
    """
    found = {name: optional_text(row.get(name), name) for name in _SYSTEM_COLUMNS if name in row.values}
    texts = {text for text in found.values() if text is not None}
    if len(texts) > 1:
        raise BadRowError(f"two different system texts: in the columns {' and '.join(found)}")
    return next(iter(texts), None)


FORMATS: Mapping[str, ConversationFormat] = {
    "conversations": ConversationFormat(
        "conversations: a list of {from: human | gpt | system, value}",
        lambda columns: "conversations" in columns,
        _turn_list("conversations"),
    ),
    "messages": ConversationFormat(
        "messages: a list of {role: user | assistant | system, content}",
        lambda columns: "messages" in columns,
        _turn_list("messages"),
    ),
    "prompt_response": ConversationFormat(
        "prompt and response (or completion)",
        lambda columns: "prompt" in columns and any(name in columns for name in _RESPONSES),
        _prompt_response,
    ),
    "instruction": ConversationFormat(
        "instruction, output and perhaps input",
        lambda columns: "instruction" in columns and "output" in columns,
        _instruction,
    ),
}
"""By the name in the run file; ``input_ids`` and ``prompt_length`` stand over all of them.

Each may have a column ``system`` (or ``system_prompt``), and ``tools``."""


def formats_of(values: Mapping[str, Any]) -> list[str]:
    """Names of the formats whose columns a row has, with something in them if there is one like that; ``ids`` for a row
    that comes as token ids, whatever else it has."""
    row = Fields(values)
    if row.has("input_ids") and "prompt_length" in values:
        return ["ids"]
    for columns in ([column for column in values if row.has(column)], list(values)):
        fitting = [name for name, form in FORMATS.items() if form.matches(columns)]
        if fitting:
            return fitting
    return []


def _by_columns(row: Fields, unused: UnusedKeys) -> Conversation:
    fitting = formats_of(row.values)
    if fitting == ["ids"]:
        raise BadRowError("it comes as token ids, without texts of turns")
    if len(fitting) == 1:
        return FORMATS[fitting[0]].parse(row.values, unused)
    columns = ", ".join(row.values) or "none"
    if fitting:
        raise BadRowError(f"its columns fit several formats ({', '.join(fitting)}); name one with dataset.format")
    raise BadRowError(f"no conversation in any known format (columns: {columns})")


ANY_FORMAT = ConversationFormat("each row in its own format", lambda _: True, _by_columns)
"""Finds the format row by row, by the columns: one file may hold several."""


def find_format(source: Source, wanted: str | None = None) -> ConversationFormat:
    """The format of a data set by name, or the one that each row has.

    Raises:
        DataError: an unknown name, or first rows of which none, or one that is not to be decided, fits a format.
    """
    if wanted is not None:
        if wanted not in FORMATS:
            raise DataError(f"dataset.format: unknown format {wanted!r}; known are {', '.join(FORMATS)}")
        return FORMATS[wanted]
    records = first_records(source)
    fitting = [formats_of(record.values) for record in records]
    columns = ", ".join(dict.fromkeys(column for record in records for column in record.values)) or "none"
    unclear = next((names for names in fitting if len(names) > 1), None)
    if unclear is not None:
        raise DataError(
            f"{source.name}: its columns fit several formats ({', '.join(unclear)}); name one with dataset.format "
            f"(columns: {columns})"
        )
    if not any(fitting):
        known = "; ".join(form.description for form in FORMATS.values())
        found = f"no conversations in any known format{among_the_first(records)} (columns: {columns})"
        raise DataError(f"{source.name}: {found}. Known are: {known}")
    return ANY_FORMAT


def read_turns(source: Source, form: ConversationFormat) -> Iterator[str]:
    """The texts of all turns, the system's and the reasoning too. Rows that are no conversation are left to whoever
    makes examples."""
    for record in source.open():
        with contextlib.suppress(BadRowError):
            if record.problem is None:
                conversation = form.parse(record.values)
                yield from texts_of(conversation)


def texts_of(conversation: Conversation) -> Iterator[str]:
    """The system's text, then the reasoning and the text of each turn, where there are any."""
    said = (text for turn in conversation.turns for text in (turn.reasoning, turn.text))
    yield from filter(None, (conversation.system, *said))
