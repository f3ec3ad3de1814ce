"""A conversation that is known to be in order: who spoke, what is trained, reasoning, tools and their calls."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import attrs

from dlm.data.text_files import TextError, check_unicode

Role = Literal["human", "gpt", "tool"]
ROLE_NAMES: Mapping[Role, str] = {"human": "human (user)", "gpt": "gpt (assistant)", "tool": "tool"}
"""How messages call them: data sets have one name or the other."""


class BadRowError(Exception):
    """A row that is no conversation; the message is the reason."""


@attrs.frozen
class Turn:
    """What one side said."""

    role: Role
    text: str
    """Empty only where a tool is called, or answers with nothing."""
    reasoning: str | None = None
    """What ``gpt`` thought before it answered."""
    is_trained: bool = True
    """False for an answer that is context only."""
    fields: Mapping[str, Any] = attrs.field(factory=dict)
    """What else a chat template reads of it: ``tool_calls`` of ``gpt``; ``name`` and ``tool_call_id`` of ``tool``."""
    number: int | None = attrs.field(default=None, eq=False)
    """Its place in the list of its row, where a system turn counts as well; null: it comes from no list."""

    def called(self, index: int) -> str:
        """How messages call it, as the ``index``-th turn of a conversation."""
        return f"turn {self.number or index + 1}"


@attrs.frozen
class Conversation:
    """Turns that alternate, starting with ``human``; at least one is answered. Between an answer that calls tools and
    the next one stand the turns of the tools."""

    turns: tuple[Turn, ...]
    system: str | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    """Definitions of the tools that may be called."""

    @property
    def answers(self) -> tuple[int, ...]:
        """Indices of the turns of ``gpt``."""
        return tuple(index for index, turn in enumerate(self.turns) if turn.role == "gpt")

    def without_reasoning(self) -> "Conversation":
        """The same with nothing but the answers themselves."""
        return attrs.evolve(self, turns=tuple(attrs.evolve(turn, reasoning=None) for turn in self.turns))


def make_conversation(
    turns: Sequence[Turn], system: str | None, tools: Sequence[Mapping[str, Any]] = ()
) -> Conversation:
    """Check the turns and put them together.

    Raises:
        BadRowError: no answered turn, or turns that do not alternate.
    """
    if not turns:
        raise BadRowError("no turns")
    expected: tuple[Role, ...] = ("human",)
    for index, turn in enumerate(turns):
        if turn.role not in expected:
            raise BadRowError(
                f"{turn.called(index)} is from {ROLE_NAMES[turn.role]}, expected "
                f"{' or '.join(ROLE_NAMES[role] for role in expected)}: turns must alternate"
            )
        expected = _next_roles(turn)
    if not any(turn.role == "gpt" for turn in turns):
        raise BadRowError(f"no answer: there is no turn of {ROLE_NAMES['gpt']}")
    return Conversation(tuple(turns), system, tuple(tools))


def _next_roles(turn: Turn) -> tuple[Role, ...]:
    if turn.role == "gpt":
        return ("human", "tool") if "tool_calls" in turn.fields else ("human",)
    return ("gpt",) if turn.role == "human" else ("gpt", "tool")


def text_in(value: object, what: str) -> str:
    """The value, if it is a text with something in it.

    Args:
        value: anything.
        what: how a message calls it.

    Raises:
        BadRowError: it is not.
    """
    if value is None:
        raise BadRowError(f"{what} is missing or null")
    if not isinstance(value, str):
        raise BadRowError(f"{what} is not text but {type(value).__name__}")
    if not value.strip():
        raise BadRowError(f"{what} is empty")
    try:
        return check_unicode(value)
    except TextError as error:
        raise BadRowError(f"{what} is {error}") from error


def optional_text(value: object, what: str) -> str | None:
    """As :func:`text_in`, with None where there is nothing; empty texts are nothing.

    Raises:
        BadRowError: it is something other than text.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    return text_in(value, what)
