"""The trace of a generation: one self-contained HTML page with a slider over the steps."""

import json
from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files
from typing import Any

import attrs
from torch import Tensor

from dlm.sampling.api import GenerateState
from dlm.sampling.pieces import pieces_of

_PLACE = "/*TRACE*/null"


@attrs.define(kw_only=True)
class Trace:
    """Collects the states of one row. The page needs no network, and its slider moves through the steps."""

    tokenizer: Any
    title: str
    _given: list[bool] = attrs.field(factory=list, init=False)
    _last: list[tuple[str | None, float]] = attrs.field(factory=list, init=False)
    _steps: list[dict[str, Any]] = attrs.field(factory=list, init=False)

    def follow(self, states: Iterable[GenerateState], row: int = 0) -> Iterator[GenerateState]:
        """Pass states on, and note what happens in one row."""
        for state in states:
            self._add(state, row)
            yield state

    def html(self) -> str:
        """The page."""
        content = {"title": self.title, "given": self._given, "steps": self._steps}
        # Inside a script element, no text may look like its end.
        data = json.dumps(content, ensure_ascii=False).replace("<", "\\u003c").replace("\u2028", "\\u2028")
        template = (files("dlm.sampling") / "trace.html").read_text(encoding="utf-8")
        head, place, tail = template.partition(_PLACE)
        assert place, "the template has a place for the trace"
        return head + data + tail

    def _add(self, state: GenerateState, row: int) -> None:
        shown = _shown(self.tokenizer, state, row)
        if not self._last:
            self._given = [not each for each in state.masked[row].tolist()]
            self._last = [(None, 0.0)] * len(shown)
        changes = [
            [column, piece, round(confidence, 4)]
            for column, ((piece, confidence), before) in enumerate(zip(shown, self._last, strict=True))
            if (piece, confidence) != before
        ]
        self._last = shown
        self._steps.append({"changes": changes, "seconds": round(state.seconds, 6), "forwards": state.num_forwards})


def _shown(tokenizer: Any, state: GenerateState, row: int) -> list[tuple[str | None, float]]:
    """Text and confidence at each position; no text where the mask stands."""
    pieces = pieces_of(tokenizer, ids_or_none(state.sequences[row], state.masked[row]))
    confidence: Sequence[float] = state.log_probabilities[row].exp().tolist()
    return [(piece, 0.0 if piece is None else value) for piece, value in zip(pieces, confidence, strict=True)]


def ids_or_none(ids: Tensor, masked: Tensor) -> list[int | None]:
    """(L,) ids, and None where masked."""
    return [None if hidden else each for each, hidden in zip(ids.tolist(), masked.tolist(), strict=True)]
