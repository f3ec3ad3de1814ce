"""Reasoning (chain of thought): what of an answer is ``<think>...</think>``, before the answer itself."""

import re
from collections.abc import Mapping
from typing import Any

from dlm.data.conversations.turns import BadRowError, Turn, optional_text

OPEN, CLOSE = "<think>", "</think>"
BEGINNING, ENDING = f"{OPEN}\n", f"\n{CLOSE}\n\n"
"""As reasoning is written where no chat template has its own way."""
FIELDS = ("reasoning_content", "thinking", "reasoning")
"""Keys that hold the reasoning of an answer, apart from its text."""

# Either `<think>` opens the text, or a line of its own closes what the prompt had opened.
_THOUGHT = re.compile(
    rf"\s*{OPEN}(?P<inside>.*?){CLOSE}|(?P<open>(?:(?!{OPEN}).)*?)^{CLOSE}[ \t\r]*$", re.DOTALL | re.M
)


def gpt_turn(text: str) -> Turn:
    """An answer as a model writes it, with the reasoning taken apart."""
    thought = _THOUGHT.match(text) if CLOSE in text else None
    if thought is None:
        return Turn("gpt", text)
    reasoning = (thought["inside"] or thought["open"] or "").strip()
    return Turn("gpt", text[thought.end() :].lstrip(), reasoning or None)


def read_answer(text: str, values: Mapping[str, Any], what: str, *, may_end: bool = False) -> Turn:
    """An answer of a data set: its reasoning stands in the text, or under a key of its own in ``values``.

    Args:
        text: the answer's.
        values: further keys.
        what: how messages call the text.
        may_end: whether it may end behind the reasoning, because a call of a tool follows.

    Raises:
        BadRowError: Reasoning in both, without an end, or without an answer.
    """
    turn = gpt_turn(text)
    if turn.reasoning is None and turn.text.lstrip().startswith(OPEN):
        raise BadRowError(f"{what} begins with {OPEN} and has no {CLOSE}")
    if text and not turn.text and not may_end:
        raise BadRowError(f"{what} is reasoning without an answer")
    for field in FIELDS:
        reasoning = optional_text(values.get(field), f"{field} of {what}")
        if reasoning is not None and turn.reasoning not in (None, reasoning.strip()):
            raise BadRowError(f"{what} has reasoning in {field}, and another in {OPEN}")
        if reasoning is not None:
            return Turn("gpt", turn.text, reasoning.strip())
    return turn
