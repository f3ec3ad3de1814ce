"""``--watch``: the text in the terminal while it is denoised, coloured by confidence."""

from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.style import Style
from rich.text import Text

from dlm.sampling.api import GenerateState
from dlm.sampling.pieces import pieces_of
from dlm.sampling.session import TextBatch
from dlm.sampling.trace import ids_or_none

_MASK = "░"


class Watcher:
    """Redraws the texts of a batch at every step: given text dim, masks as blocks, confidence from red to green."""

    def __init__(self, tokenizer: Any, console: Console) -> None:
        self._tokenizer = tokenizer
        self._console = console

    def __call__(self, batch: TextBatch, states: Iterable[GenerateState]) -> Iterator[GenerateState]:
        """Pass states on and draw them."""
        widths = [len(task.ids) for task in batch.tasks]
        with Live(console=self._console, auto_refresh=False, transient=True) as live:
            for state in states:
                # Columns before a shorter prompt are padding.
                rows = [self._row(state, row, max(widths) - width) for row, width in enumerate(widths)]
                live.update(Group(*rows), refresh=True)
                yield state

    def _row(self, state: GenerateState, row: int, start: int) -> Text:
        pieces = pieces_of(self._tokenizer, ids_or_none(state.sequences[row, start:], state.masked[row, start:]))
        confidence = state.log_probabilities[row, start:].exp().tolist()
        is_given = (state.committed_step[row, start:] < 0).tolist()
        text = Text()
        for piece, sure, given in zip(pieces, confidence, is_given, strict=True):
            if piece is None:
                text.append(_MASK, Style(dim=True))
            else:
                text.append(piece, Style(dim=True) if given else Style(color=colour(sure)))
        return text


def colour(confidence: float) -> str:
    """From red over yellow to green."""
    share = min(max(confidence, 0.0), 1.0)
    red, green = min(2 * (1 - share), 1.0), min(2 * share, 1.0)
    return f"#{round(80 + 150 * red):02x}{round(80 + 150 * green):02x}50"
