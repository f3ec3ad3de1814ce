"""The text of single tokens, so that they can be shown one by one without breaking characters that several spell."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

_BROKEN = "\N{REPLACEMENT CHARACTER}"
_MOST_MISSING = 3
"""A character has at most four bytes, and a token at least one."""


def whole_characters(tokenizer: Any, ids: Sequence[int]) -> Iterator[tuple[tuple[int, ...], str]]:
    """Cut ids into the shortest groups whose texts can be shown one by one; each group with its text.

    The texts join to what the tokenizer makes of all ids. A group has several ids only where they spell characters
    together, as those of a byte-level vocabulary do with ``°`` or ``日``. Bytes that belong to no character are groups
    of their own.
    """
    # The group before is enough to tell whether a space belongs to this one.
    before: tuple[int, ...] = ()
    start = 0
    while start < len(ids):
        shown = _decode(tokenizer, before)
        for stop in range(start + 1, len(ids) + 1):
            text = _decode(tokenizer, [*before, *ids[start:stop]])
            is_whole = stop == len(ids) or not text.endswith(_BROKEN)
            # Still broken when what could complete it has come: no character, or one that was broken in the data.
            if is_whole or _decode(tokenizer, [*before, *ids[start : stop + _MOST_MISSING]]).startswith(text):
                break
        group = tuple(ids[start:stop])
        yield group, text.removeprefix(shown)
        # A broken character may go on in the next group, without a sign of its own.
        before, start = (before if text.endswith(_BROKEN) else ()) + group, stop


def pieces_of(tokenizer: Any, ids: Sequence[int | None]) -> list[str | None]:
    """The text that each id adds to the text; None where there is no id yet.

    A character that several ids spell together stands at the last of them; as long as one of them is still missing, the
    others show a replacement sign.
    """
    pieces: list[str | None] = []
    for is_missing, run in groupby(ids, key=lambda each: each is None):
        if is_missing:
            pieces += [None for _ in run]
            continue
        for group, text in whole_characters(tokenizer, [each for each in run if each is not None]):
            pieces += [*[""] * (len(group) - 1), text]
    return pieces


def num_whole(tokenizer: Any, ids: Sequence[int]) -> int:
    """How many of the ids can be shown already: all, less those of characters that ids to come may complete."""
    # A stream asks again and again: the last ids tell, as long as they are those of a text.
    for num in range(len(ids), max(len(ids) - _MOST_MISSING, 0) - 1, -1):
        if not _decode(tokenizer, ids[max(num - _MOST_MISSING - 1, 0) : num]).endswith(_BROKEN):
            return num
    num = 0
    for group, text in whole_characters(tokenizer, ids):
        if text.endswith(_BROKEN) and num + len(group) + _MOST_MISSING > len(ids):
            break
        num += len(group)
    return num


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text
