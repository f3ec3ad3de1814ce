"""Turns in a list (ShareGPT, OpenAI messages): roles and texts under the keys that data sets use, and tool calls."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from dlm.data.conversations.reasoning import FIELDS, read_answer
from dlm.data.conversations.turns import BadRowError, Role, Turn, optional_text, text_in
from dlm.data.conversations.unused_keys import Fields

ROLES: Mapping[str, Role] = {
    "human": "human",
    "user": "human",
    "gpt": "gpt",
    "assistant": "gpt",
    "model": "gpt",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
"""In small letters: data sets write them in any."""
SYSTEM_ROLES = ("system", "developer")
_ROLE_KEYS = ("from", "role")
_TEXT_KEYS = ("value", "content")
_EXPECTED = "expected from and value, or role and content"
_WEIGHT_KEYS = ("weight", "train")
_WEIGHTS: Mapping[object, bool] = {0: False, 1: True}  # true and false are among them


def read_turn_list(items: object, column: str) -> tuple[str | None, list[Turn], list[Fields]]:
    """The system text, the turns, and their keys.

    Raises:
        BadRowError: the items are no turns.
    """
    if not isinstance(items, (list, tuple)):
        found = "missing or null" if items is None else f"not a list but {type(items).__name__}"
        raise BadRowError(f"{column} is {found}")
    system, turns, read = None, [], []
    for number, item in enumerate(items, 1):
        if not isinstance(item, Mapping):
            raise BadRowError(f"turn {number} is not an object but {type(item).__name__}")
        fields = Fields(item)
        read.append(fields)
        role = _value_of(fields, _ROLE_KEYS, number)[1]
        known = role.strip().lower() if isinstance(role, str) else ""
        key, text = _value_of(fields, _TEXT_KEYS, number)
        if known in SYSTEM_ROLES and number == 1:
            system = optional_text(text, "the system turn")
        elif known in ROLES:
            turn = _READERS[ROLES[known]](fields, text, f"{key} of turn {number}", number)
            turns.append(attrs.evolve(turn, number=number))
        else:
            names = ", ".join((*ROLES, f"{SYSTEM_ROLES[0]} (first turn only)"))
            raise BadRowError(f"unknown role {_shortened(role)} in turn {number}; known are {names}")
    return system, turns, read


def read_tools(value: object) -> tuple[Mapping[str, Any], ...]:
    """Definitions of tools: a list of objects, or the same as a JSON text.

    Raises:
        BadRowError: it is something else.
    """
    tools = _parsed(value) if isinstance(value, str) and value.strip() else value
    if tools is None or tools == "" or tools == []:
        return ()
    if not isinstance(tools, (list, tuple)) or not all(isinstance(tool, Mapping) for tool in tools):
        raise BadRowError(f"tools is no list of objects but {_shortened(tools)}")
    check_writable(tools, "tools")
    return tuple(tools)


def check_writable(value: object, what: str) -> None:
    """Refuse what cannot be written as JSON in UTF-8.

    Raises:
        BadRowError: lone surrogates, values JSON does not have, or too many levels.
    """
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRowError(f"{what} cannot be written as JSON: {error}") from error


def _value_of(fields: Fields, keys: Sequence[str], number: int) -> tuple[str, Any]:
    """The first of the keys that has something, with its value; the key stands in messages."""
    present = [key for key in keys if key in fields.values]
    if not present:
        found = ", ".join(_shortened(key, quoted=False) for key in fields.values) or "none"
        raise BadRowError(f"turn {number} has the keys {found}; {_EXPECTED}")
    key = next((key for key in present if fields.has(key)), present[0])
    return key, fields.get(key)


def _human(fields: Fields, text: object, what: str, number: int) -> Turn:
    for key in _WEIGHT_KEYS:
        if not fields.values.get(key):
            fields.get(key)  # a question is context anyway
    return Turn("human", text_in(text, what))


def _gpt(fields: Fields, text: object, what: str, number: int) -> Turn:
    calls = _tool_calls(fields.get("tool_calls"), number)
    answer = (optional_text(text, what) or "") if calls else text_in(text, what)
    reasoning = {field: fields.get(field) for field in FIELDS if fields.has(field)}
    turn = read_answer(answer, reasoning, what, may_end=bool(calls))
    return Turn("gpt", turn.text, turn.reasoning, _is_trained(fields, number), {"tool_calls": calls} if calls else {})


def _tool(fields: Fields, text: object, what: str, number: int) -> Turn:
    names = {key: text_in(fields.get(key), f"{key} of turn {number}") for key in _TOOL_KEYS if fields.has(key)}
    return Turn("tool", optional_text(text, what) or "", fields=names)


_TOOL_KEYS = ("name", "tool_call_id")
_READERS = {"human": _human, "gpt": _gpt, "tool": _tool}


def _is_trained(fields: Fields, number: int) -> bool:
    """Whether an answer is trained: ``weight: 0`` (OpenAI) and ``train: false`` make it context."""
    trained = True
    for key in _WEIGHT_KEYS:
        value = fields.get(key)
        if value is None:
            continue
        if not isinstance(value, (bool, int, float)) or value not in _WEIGHTS:
            raise BadRowError(
                f"{key} of turn {number} is {_shortened(value)}; an answer is trained (1, true) or context (0, false)"
            )
        trained = trained and _WEIGHTS[value]
    return trained


def _tool_calls(value: object, number: int) -> list[dict[str, Any]]:
    """Calls in the shape that chat templates expect: arguments as an object."""
    what = f"tool_calls of turn {number}"
    if value is None:
        return []
    if not isinstance(value, (list, tuple)):
        raise BadRowError(f"{what} is not a list but {type(value).__name__}")
    calls = []
    for call in value:
        function = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise BadRowError(f"{what} has a call without a function's name")
        arguments = function.get("arguments")
        parsed = _parsed(arguments) if isinstance(arguments, str) else arguments
        function = {**function, "arguments": {} if parsed is None else parsed}
        calls.append({**call, "type": "function", "function": function})
    check_writable(calls, what)
    return calls


def _parsed(text: str) -> Any:
    """The JSON in a text, or the text itself if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _shortened(value: object, *, quoted: bool = True) -> str:
    text = ascii(value) if quoted else ascii(value)[1:-1]
    return text if len(text) <= 40 else f"{text[:37]}..."
