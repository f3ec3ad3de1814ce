"""The text of a row as it settles: what may be sent already, where it ends (end of text, stop), its tokens."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, Literal

import attrs

from dlm.sampling.api import GenerateState
from dlm.sampling.pieces import num_whole
from dlm.sampling.texts import text_of

Reason = Literal["stop", "length"]


@attrs.define(kw_only=True, eq=False)
class RowText:
    """What a client gets of one row, piece by piece; the pieces join to the text."""

    tokenizer: Any
    ends: Sequence[int]
    """Ids that end a text; none for an infill, of which everything is text."""
    num_given: int
    """Positions before the text: the prompt's."""
    stops: Sequence[str]
    given: Sequence[int]
    """Places in the text that were given, ascending: what surrounds the gaps of an infill."""
    takes_nothing_back: bool
    """Whether what the remasking rule has written stays."""
    text: str = ""
    """What was handed out."""
    reason: Reason | None = None
    """Why the text is complete; None: it is not."""
    num_tokens: int = 0
    """Tokens written for the complete text, with the one that ended it."""
    _num_settled: int = attrs.field(default=0, init=False)
    """Positions that were settled when last looked at."""

    def piece(self, state: GenerateState, *, is_last: bool = False) -> str:
        """What can be handed out now, after what was before."""
        if self.reason is not None:
            return ""
        num_settled = len(state.sequences[0]) if is_last else state.num_settled(self.takes_nothing_back)
        if num_settled == self._num_settled and not is_last:
            return ""
        self._num_settled = num_settled
        ids = state.sequences[0, self.num_given : num_settled].tolist()
        end = next((index for index, each in enumerate(ids) if each in self.ends), None)
        text = self._text(ids, is_complete=is_last or end is not None)
        places = [place for place in map(text.find, self.stops) if place >= 0]
        if places:
            text, self.reason = text[: min(places)], "stop"
            self.num_tokens = self._num_written(self._num_until_stop(ids))
        elif is_last or end is not None:
            self.reason = "length" if end is None else "stop"
            self.num_tokens = self._num_written(len(ids) if end is None else end + 1)
        else:
            text = text[: len(text) - self._num_uncertain(text)]
        piece = text[len(self.text) :]
        self.text += piece
        return piece

    def _num_written(self, number: int) -> int:
        return number - bisect_left(self.given, number)

    def _text(self, ids: list[int], *, is_complete: bool) -> str:
        return text_of(self.tokenizer, ids if is_complete else ids[: num_whole(self.tokenizer, ids)], self.ends)

    def _num_uncertain(self, text: str) -> int:
        """Characters at the end that what follows may change: the beginning of a stop, or spaces of a tokenizer."""
        longest = max(map(len, self.stops), default=0)
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self.stops):
                return length
        return len(text) - len(text.rstrip())

    def _num_until_stop(self, ids: list[int]) -> int:
        def holds_stop(number: int) -> bool:
            text = text_of(self.tokenizer, ids[:number], self.ends)
            return any(stop in text for stop in self.stops)

        return bisect_left(range(len(ids)), True, key=holds_stop)
