"""The trace of a generation: one self-contained HTML page with a slider over the steps."""

import json
from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

import attrs
from torch import Tensor

from dlm.sampling.api import GenerateState
from dlm.sampling.pieces import pieces_of


@attrs.define
class Changes:
    """What changes from state to state in one row: the steps of a trace, one by one."""

    _tokenizer: Any
    _row: int = 0
    given: list[bool] = attrs.field(factory=list, init=False)
    """Which positions were given: those without a mask in the first state."""
    _last: list[tuple[str | None, float]] = attrs.field(factory=list, init=False)

    def step(self, state: GenerateState) -> dict[str, Any]:
        """The next step: changes as (position, piece or null where masked, confidence), seconds, forwards."""
        if not self._last:
            self.given = [not each for each in state.masked[self._row].tolist()]
        shown = _shown(self._tokenizer, state, self._row, self.given)
        before = self._last or [(None, 0.0)] * len(shown)
        changes = [
            [column, piece, round(confidence, 4)]
            for column, ((piece, confidence), other) in enumerate(zip(shown, before, strict=True))
            if (piece, confidence) != other
        ]
        self._last = shown
        return {"changes": changes, "seconds": round(state.seconds, 6), "forwards": state.num_forwards}


@attrs.define(kw_only=True)
class Trace:
    """Collects the states of one row. The page needs no network, and its slider moves through the steps."""

    tokenizer: Any
    title: str
    _given: list[bool] = attrs.field(factory=list, init=False)
    _steps: list[dict[str, Any]] = attrs.field(factory=list, init=False)

    def follow(self, states: Iterable[GenerateState], row: int = 0) -> Iterator[GenerateState]:
        """Pass states on, and note what happens in one row."""
        changes = Changes(self.tokenizer, row)
        for state in states:
            self._steps.append(changes.step(state))
            self._given = changes.given
            yield state

    def html(self) -> str:
        """The page."""
        content = {"title": self.title, "given": self._given, "steps": self._steps}
        return page_of(files("dlm.sampling") / "trace.html", "TRACE", content)


def page_of(template: Traversable, place: str, content: Any) -> str:
    """A page from its template, with content where it says so, and the style and the view that all traces share."""
    # Inside a script element, no text may look like its end.
    data = json.dumps(content, ensure_ascii=False).replace("<", "\\u003c").replace("\u2028", "\\u2028")
    shared = files("dlm.sampling")
    page = template.read_text(encoding="utf-8")
    for name, file in (("/*STYLE*/\n", "trace.css"), ("/*VIEW*/\n", "trace_view.js")):
        page = page.replace(name, (shared / file).read_text(encoding="utf-8"), 1)
    head, mark, tail = page.partition(f"/*{place}*/null")
    assert mark, "the template has a place for its content"
    return head + data + tail


def _shown(tokenizer: Any, state: GenerateState, row: int, given: Sequence[bool]) -> list[tuple[str | None, float]]:
    """Text and confidence at each position: None where the mask stands, nothing behind the end of a text."""
    pieces = pieces_of(tokenizer, ids_or_none(state.sequences[row], state.masked[row]))
    confidence: Sequence[float] = state.log_probabilities[row].exp().tolist()
    written = (state.committed_step[row] >= 0).tolist()
    return [
        (piece, 0.0 if piece is None else value) if piece is None or is_given or is_written else ("", 0.0)
        for piece, value, is_given, is_written in zip(pieces, confidence, given, written, strict=True)
    ]


def ids_or_none(ids: Tensor, masked: Tensor) -> list[int | None]:
    """(L,) ids, and None where masked."""
    return [None if hidden else each for each, hidden in zip(ids.tolist(), masked.tolist(), strict=True)]
