"""Running the jobs of ``dlm generate``."""

from collections.abc import Callable, Iterable, Sequence
from time import perf_counter

import attrs

from dlm.sampling.api import GenerateState
from dlm.sampling.caching import CACHES
from dlm.sampling.session import Batch, Job, Result, Session

Watch = Callable[[Batch, Iterable[GenerateState]], Iterable[GenerateState]]
"""Something that looks at the states of a batch as they pass."""


@attrs.define(kw_only=True)
class Statistics:
    """What the jobs cost."""

    num_texts: int = 0
    num_tokens: int = 0
    num_forwards: int = 0
    seconds: float = 0.0
    cache: str = "off"

    def __str__(self) -> str:
        exact = "exact" if CACHES[self.cache].is_exact else "approximate"
        return (
            f"{self.num_tokens} tokens in {self.num_forwards} forwards "
            f"({self.num_tokens / max(self.num_forwards, 1):.2f} tokens per forward), {self.seconds:.2f} s "
            f"({self.num_tokens / max(self.seconds, 1e-9):.1f} tokens per second), cache {self.cache} ({exact})"
        )


def run_jobs(
    session: Session,
    jobs: Sequence[Job],
    batch_size: int,
    take: Callable[[Result], None],
    watch: Watch = lambda batch, states: states,
) -> Statistics:
    """Write all texts, and hand each to ``take`` as soon as it is there."""
    statistics = Statistics()
    for batch in session.batches(jobs, batch_size):
        started = perf_counter()
        *_, state = watch(batch, session.states(batch))
        statistics.seconds += perf_counter() - started
        results = session.results(batch, state)
        statistics.num_texts += len(results)
        statistics.num_tokens += sum(result.num_tokens for result in results)
        statistics.num_forwards += state.num_forwards
        statistics.cache = state.cache
        for result in results:
            take(result)
    return statistics
