"""A conversation that is known to be in order."""

from collections.abc import Sequence
from typing import Literal

import attrs

from dlm.data.text import is_unicode

Role = Literal["human", "gpt"]


class BadRowError(Exception):
    """A row that is no conversation; the message is the reason."""


@attrs.frozen
class Turn:
    """What one side said."""

    role: Role
    text: str


@attrs.frozen
class Conversation:
    """Turns that alternate, starting with ``human``; at least one is answered."""

    turns: tuple[Turn, ...]
    system: str | None = None

    @property
    def answers(self) -> range:
        """Indices of the turns of ``gpt``."""
        return range(1, len(self.turns), 2)


def make_conversation(turns: Sequence[Turn], system: str | None) -> Conversation:
    """Check the turns and put them together.

    Raises:
        BadRowError: no answered turn, or turns that do not alternate.
    """
    if not turns:
        raise BadRowError("no turns")
    for index, turn in enumerate(turns):
        expected = "gpt" if index % 2 else "human"
        if turn.role != expected:
            raise BadRowError(f"turn {index + 1} is from {turn.role}, expected {expected}: turns must alternate")
    if len(turns) < 2:
        raise BadRowError("no answer: there is no turn of gpt")
    return Conversation(tuple(turns), system)


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
    if not is_unicode(value):
        raise BadRowError(f"{what} is not valid Unicode (a lone surrogate)")
    return value
