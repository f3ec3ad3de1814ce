"""The shapes conversations come in, one parser each."""

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import attrs

from dlm.data.conversations.turns import BadRowError, Conversation, Role, Turn, make_conversation, text_in
from dlm.data.records import Source
from dlm.data.sources import first_records
from dlm.errors import DataError

_ROLES: Mapping[str, Role] = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt"}
_SYSTEM = "system"
_RESPONSES = ("response", "completion")
_NUM_RECORDS_LOOKED_AT = 100


@attrs.frozen
class ConversationFormat:
    """How a row becomes a conversation."""

    description: str
    matches: Callable[[Collection[str]], bool]
    """Whether a row with these columns may be in this format."""
    parse: Callable[[Mapping[str, Any]], Conversation]
    """Raises :class:`BadRowError` with the reason."""


def _turn_list(values: Mapping[str, Any], column: str, role_key: str, text_key: str) -> Conversation:
    """A list of turns, and the system text in a column of its own or as the first turn."""
    items = values.get(column)
    if not isinstance(items, (list, tuple)):
        found = "missing or null" if items is None else f"not a list but {type(items).__name__}"
        raise BadRowError(f"{column} is {found}")
    system = _system_of(values)
    turns = []
    for number, item in enumerate(items, 1):
        if not isinstance(item, Mapping):
            raise BadRowError(f"turn {number} is not an object but {type(item).__name__}")
        role = item.get(role_key)
        if role == _SYSTEM and number == 1:
            first = _optional_text(item.get(text_key), "the system turn")
            if system is not None and first is not None and system != first:
                raise BadRowError("two different system texts: in the column and in the first turn")
            system = system or first
        elif isinstance(role, str) and role in _ROLES:
            turns.append(Turn(_ROLES[role], text_in(item.get(text_key), f"{text_key} of turn {number}")))
        else:
            known = ", ".join((*_ROLES, f"{_SYSTEM} (first turn only)"))
            raise BadRowError(f"unknown role {_shortened(role)} in turn {number}; known are {known}")
    return make_conversation(turns, system)


def _parse_conversations(values: Mapping[str, Any]) -> Conversation:
    return _turn_list(values, "conversations", "from", "value")


def _parse_messages(values: Mapping[str, Any]) -> Conversation:
    return _turn_list(values, "messages", "role", "content")


def _parse_prompt_response(values: Mapping[str, Any]) -> Conversation:
    column = next((name for name in _RESPONSES if name in values), _RESPONSES[0])
    return _question_and_answer(text_in(values.get("prompt"), "prompt"), values, column)


def _parse_instruction(values: Mapping[str, Any]) -> Conversation:
    instruction = text_in(values.get("instruction"), "instruction")
    extra = _optional_text(values.get("input"), "input")
    return _question_and_answer(instruction if extra is None else f"{instruction}\n\n{extra}", values, "output")


def _question_and_answer(question: str, values: Mapping[str, Any], column: str) -> Conversation:
    answer = text_in(values.get(column), column)
    return make_conversation([Turn("human", question), Turn("gpt", answer)], _system_of(values))


def _system_of(values: Mapping[str, Any]) -> str | None:
    return _optional_text(values.get(_SYSTEM), _SYSTEM)


def _optional_text(value: object, what: str) -> str | None:
    """None where there is nothing; empty texts are nothing."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    return text_in(value, what)


def _shortened(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


FORMATS: Mapping[str, ConversationFormat] = {
    "conversations": ConversationFormat(
        "conversations: a list of {from: human | gpt | system, value}",
        lambda columns: "conversations" in columns,
        _parse_conversations,
    ),
    "messages": ConversationFormat(
        "messages: a list of {role: user | assistant | system, content}",
        lambda columns: "messages" in columns,
        _parse_messages,
    ),
    "prompt_response": ConversationFormat(
        "prompt and response (or completion)",
        lambda columns: "prompt" in columns and any(name in columns for name in _RESPONSES),
        _parse_prompt_response,
    ),
    "instruction": ConversationFormat(
        "instruction, output and perhaps input",
        lambda columns: "instruction" in columns and "output" in columns,
        _parse_instruction,
    ),
}
"""By the name in the run file. Each may have a column ``system``."""


def find_format(source: Source, wanted: str | None = None) -> ConversationFormat:
    """The format of a data set, by name or read off the columns of its first rows.

    Raises:
        DataError: an unknown name, no format that fits, or several.
    """
    if wanted is not None:
        if wanted not in FORMATS:
            raise DataError(f"dataset.format: unknown format {wanted!r}; known are {', '.join(FORMATS)}")
        return FORMATS[wanted]
    records = first_records(source, _NUM_RECORDS_LOOKED_AT)
    fitting = [name for name, form in FORMATS.items() if any(form.matches(record.values) for record in records)]
    if len(fitting) == 1:
        return FORMATS[fitting[0]]
    columns = ", ".join(dict.fromkeys(column for record in records for column in record.values)) or "none"
    if fitting:
        raise DataError(
            f"{source.name}: its columns fit several formats ({', '.join(fitting)}); name one with dataset.format "
            f"(columns: {columns})"
        )
    known = "; ".join(form.description for form in FORMATS.values())
    raise DataError(f"{source.name}: no conversations in any known format (columns: {columns}). Known are: {known}")


def read_turns(source: Source, form: ConversationFormat) -> Iterator[str]:
    """The texts of all turns, the system's too. Rows that are no conversation are left to whoever makes examples."""
    for record in source.open():
        with contextlib.suppress(BadRowError):
            if record.problem is None:
                conversation = form.parse(record.values)
                yield from filter(None, (conversation.system, *(turn.text for turn in conversation.turns)))
