"""The text of single tokens, so that they can be shown one by one."""

from collections.abc import Sequence
from typing import Any

_BROKEN = "\N{REPLACEMENT CHARACTER}"


def pieces_of(tokenizer: Any, ids: Sequence[int | None]) -> list[str | None]:
    """The text that each id adds to the text; None where there is no id yet.

    A character that several ids spell together stands at the last of them, unless one of them is still missing.
    """
    pieces: list[str | None] = []
    run: list[int] = []
    num_shown = 0
    for each in ids:
        if each is None:
            pieces.append(None)
            run, num_shown = [], 0
            continue
        run.append(each)
        # One earlier id is enough to tell whether a space belongs to this one.
        before = run[max(num_shown - 1, 0) : num_shown]
        shown = _decode(tokenizer, before)
        text = _decode(tokenizer, [*before, *run[num_shown:]])
        piece = text.removeprefix(shown)
        if _BROKEN in piece and len(run) - num_shown < 4:
            pieces.append("")
            continue
        pieces.append(piece)
        num_shown = len(run)
    return pieces


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text
