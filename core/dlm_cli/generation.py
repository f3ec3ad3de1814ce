"""Run the texts of ``dlm generate``: batches, trace, watching, and statistics (tokens per forward and second)."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from time import perf_counter

import attrs
import click
from rich.console import Console

from dlm.config.sampling_settings import APPROXIMATE_CACHES
from dlm.sampling.api import GenerateState
from dlm.sampling.session import Result, Session, TextBatch, TextTask
from dlm.sampling.trace import Trace
from dlm_cli.watch import Watcher

Watch = Callable[[TextBatch, Iterable[GenerateState]], Iterable[GenerateState]]
"""Something that looks at the states of a batch as they pass."""


@attrs.define(kw_only=True)
class Statistics:
    """What the tasks cost."""

    num_texts: int = 0
    num_tokens: int = 0
    num_forwards: int = 0
    seconds: float = 0.0
    cache: str = "off"

    def __str__(self) -> str:
        exact = "approximate" if self.cache in APPROXIMATE_CACHES else "exact"
        return (
            f"{self.num_tokens} tokens in {self.num_forwards} forwards "
            f"({self.num_tokens / max(self.num_forwards, 1):.2f} tokens per forward), {self.seconds:.2f} s "
            f"({self.num_tokens / max(self.seconds, 1e-9):.1f} tokens per second), cache {self.cache} ({exact})"
        )


class Tracer:
    """Follows the one text of a batch, and writes its page."""

    def __init__(self, session: Session, path: Path) -> None:
        self._session = session
        self._path = path
        self._trace = Trace(tokenizer=session.tokenizer, title="")

    def __call__(self, batch: TextBatch, states: Iterable[GenerateState]) -> Iterator[GenerateState]:
        """Pass states on, and note them."""
        self._trace.title = batch.tasks[0].prompt
        return self._trace.follow(states)

    def write(self) -> None:
        """Write the page."""
        self._path.write_text(self._trace.html(), encoding="utf-8")
        click.echo(f"trace written to {self._path}", err=True)


def watcher(session: Session) -> Watcher:
    """What redraws the texts in the terminal."""
    return Watcher(session.tokenizer, Console(stderr=True))


def run_tasks(
    session: Session,
    tasks: Sequence[TextTask],
    batch_size: int,
    take: Callable[[Result], None],
    watches: Sequence[Watch] = (),
) -> Statistics:
    """Write all texts, and hand each to ``take`` as soon as it is there."""
    statistics = Statistics()
    for batch in session.batches(tasks, batch_size):
        started = perf_counter()
        states: Iterable[GenerateState] = session.states(batch)
        for watch in watches:
            states = watch(batch, states)
        *_, state = states
        statistics.seconds += perf_counter() - started
        results = session.results(batch, state)
        statistics.num_texts += len(results)
        statistics.num_tokens += sum(result.num_tokens for result in results)
        statistics.num_forwards += state.num_forwards
        statistics.cache = state.cache
        for result in results:
            take(result)
    return statistics
