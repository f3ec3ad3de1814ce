"""The data loader: which rows each step takes, shuffled by epoch, resumable at any step, with worker processes."""

import itertools
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import attrs
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from dlm.data.batch import FILLER, Batch, StepBatch, StepShape
from dlm.data.order import Order, shuffled
from dlm.data.rows import Row, Rows
from dlm.errors import DataError

_PLACES_AT_ONCE = 4096
"""Places of the order that are worked out together: it costs hardly more than one."""

T = TypeVar("T")
Collate = Callable[[Sequence[Row | None], Sequence[int], int], Batch]
"""Takes rows (None: filler), their indices in the global step batch, and the length of the longest row of that."""


@attrs.frozen(kw_only=True)
class StepPlan:
    """Which rows one step takes."""

    epoch: int
    epoch_batch: int
    row_ids: tuple[int, ...]
    step_length: int
    """Tokens in the longest row of the global step batch."""
    micro_steps: list[tuple[int, ...]]
    """Indices into ``row_ids`` for this rank, or -1."""

    def micro_plans(self) -> list["MicroPlan"]:
        """What has to be read for each micro-step."""
        return [
            MicroPlan(
                row_index=micro_step,
                row_ids=tuple(FILLER if k == FILLER else self.row_ids[k] for k in micro_step),
                step_length=self.step_length,
            )
            for micro_step in self.micro_steps
        ]


@attrs.frozen(kw_only=True)
class MicroPlan:
    """Which rows one micro-step takes: all that is sent to a worker process."""

    row_index: tuple[int, ...]
    row_ids: tuple[int, ...]
    step_length: int


@attrs.frozen(kw_only=True, eq=False)
class StepLoader:
    """Steps over N rows, epoch after epoch, in an order that depends on seed and epoch alone.

    Batch size, accumulation, ranks and worker processes decide who reads a row, not which step it belongs to, as long
    as their product G stays the same.
    """

    rows: Rows
    collate: Collate
    shape: StepShape
    seed: int = 0
    shuffle: bool = True
    """False: the order of the rows themselves, in every epoch (evaluation)."""
    order: Order = shuffled
    """Which rows stand where, if they are shuffled."""
    num_workers: int = attrs.field(default=0, validator=attrs.validators.ge(0))
    """Processes that read ahead; 0 reads in this one. The result is the same."""

    @property
    def steps_per_epoch(self) -> int:
        """ceil(N / G): the last step of an epoch may be short."""
        return -(-len(self.rows) // self.shape.rows_per_step)

    def steps(
        self, epoch: int = 0, epoch_batch: int = 0, data_state: Mapping[str, Any] | None = None
    ) -> Iterator[StepBatch]:
        """Endless steps from exactly this position on. No row before it is read.

        Args:
            epoch: number of the epoch, from 0.
            epoch_batch: number of the step in it; ``steps_per_epoch`` is the start of the next epoch.
            data_state: of a stream; here the position says it all.

        Raises:
            DataError: no rows, a position outside the epoch, or a worker process that died.
        """
        if len(self.rows) == 0:
            raise DataError("the data set has no rows, so there is nothing to take a step on")
        if not 0 <= epoch_batch <= self.steps_per_epoch:
            raise DataError(
                f"step {epoch_batch} of epoch {epoch} does not exist: an epoch has {self.steps_per_epoch} steps. The "
                f"data set or the batch size is not the one this position belongs to"
            )
        return self._steps(epoch, epoch_batch)

    def one_epoch(self, epoch: int = 0) -> Iterator[StepBatch]:
        """The steps of one epoch."""
        return itertools.islice(self.steps(epoch), self.steps_per_epoch)

    def plans(self, epoch: int = 0, epoch_batch: int = 0) -> Iterator[StepPlan]:
        """The rows of the same steps, without reading any."""
        steps_at_once = -(-_PLACES_AT_ONCE // self.shape.rows_per_step)
        while True:
            for number in range(epoch_batch, self.steps_per_epoch, steps_at_once):
                yield from self._plans_at_once(epoch, number, min(number + steps_at_once, self.steps_per_epoch))
            epoch, epoch_batch = epoch + 1, 0

    def _plans_at_once(self, epoch: int, first: int, last: int) -> Iterator[StepPlan]:
        num_rows, rows_per_step = len(self.rows), self.shape.rows_per_step
        places = np.arange(first * rows_per_step, min(last * rows_per_step, num_rows))
        if self.shuffle:
            places = self.order(places, num_rows=num_rows, seed=self.seed, epoch=epoch)
        lengths = self.rows.lengths[places]
        for number in range(first, last):
            step = slice((number - first) * rows_per_step, (number - first + 1) * rows_per_step)
            row_ids = tuple(places[step].tolist())
            yield StepPlan(
                epoch=epoch,
                epoch_batch=number,
                row_ids=row_ids,
                step_length=int(lengths[step].max()),
                micro_steps=self.shape.micro_steps(len(row_ids)),
            )

    def _steps(self, epoch: int, epoch_batch: int) -> Iterator[StepBatch]:
        # Workers run ahead of the steps by a few plans, which tee keeps for them.
        plans, plans_ahead = itertools.tee(self.plans(epoch, epoch_batch))
        batches = self._read(micro for plan in plans_ahead for micro in plan.micro_plans())
        for plan in plans:
            yield StepBatch(
                epoch=plan.epoch,
                epoch_batch=plan.epoch_batch,
                num_rows=len(plan.row_ids),
                micro_batches=list(itertools.islice(batches, len(plan.micro_steps))),
                row_ids=plan.row_ids,
            )

    def _read(self, micro_plans: Iterator[MicroPlan]) -> Iterator[Batch]:
        return read_ahead(MicroBatchReader(self.rows, self.collate), micro_plans, self.num_workers)


class ReadAhead(Iterator[StepBatch]):
    """Steps that can be looked at before they are taken."""

    def __init__(self, steps: Iterator[StepBatch]) -> None:
        self._steps = steps
        self._ahead: StepBatch | Exception | None = None

    def peek(self) -> StepBatch | None:
        """The next step; None where reading it failed, which is raised when it is taken."""
        if self._ahead is None:
            try:
                self._ahead = next(self._steps)
            except Exception as error:
                self._ahead = error
        return self._ahead if isinstance(self._ahead, StepBatch) else None

    def __next__(self) -> StepBatch:
        ahead, self._ahead = self._ahead, None
        if isinstance(ahead, Exception):
            raise ahead
        return next(self._steps) if ahead is None else ahead


class MicroBatchReader(Dataset[Batch]):
    """A map from plans to batches, as worker processes need it."""

    def __init__(self, rows: Rows, collate: Collate) -> None:
        self._rows = rows
        self._collate = collate

    def __getitem__(self, plan: MicroPlan) -> Batch:
        rows = [None if number == FILLER else self._rows[number] for number in plan.row_ids]
        return self._collate(rows, plan.row_index, plan.step_length)


class _InOrder(Sampler[Any]):
    def __init__(self, keys: Iterable[Any]) -> None:
        self._keys = keys

    def __iter__(self) -> Iterator[Any]:
        return iter(self._keys)


def read_ahead(reader: Dataset[T], keys: Iterable[Any], num_workers: int) -> Iterator[T]:
    """``reader[key]`` for each key, in order.

    Args:
        reader: is copied to the workers.
        keys: are drawn a few ahead of what is taken where there are workers.
        num_workers: processes that read; 0: this one, when a value is taken.

    Raises:
        DataError: a worker process died.
    """
    if num_workers == 0:
        yield from (reader[key] for key in keys)
        return
    # Rust's threads do not survive the fork, of which the tokenizers library would warn.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    loader = DataLoader(
        reader,
        batch_size=None,
        sampler=_InOrder(keys),
        num_workers=num_workers,
        collate_fn=_unchanged,
        worker_init_fn=_end_with_parent,
        # Its own generator: starting workers must not draw from the global one, which belongs to dropout.
        generator=torch.Generator(),
    )
    values = iter(loader)
    while True:
        try:
            value = next(values)
        except StopIteration:
            return
        except RuntimeError as error:
            failure = worker_failure(error)
            if failure is None:
                raise
            raise failure from error
        yield value


def _unchanged(batch: Any) -> Any:
    return batch


def _end_with_parent(worker: int) -> None:
    """End this worker as soon as the process that started it is gone, killed perhaps.

    torch's own watch makes a worker stop reading, but not end: it waits until what it has read is taken, which nobody
    does any more.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None, f"worker {worker} was started by no process"

    def end() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


def worker_failure(error: BaseException) -> DataError | None:
    """The message for a data worker that died, or None if the error is something else.

    torch reports a dead worker from a signal handler, so the RuntimeError may surface anywhere in the main thread and
    not only where the next batch is awaited: a training loop asks here before it treats one as a bug.
    """
    message = str(error)
    if not isinstance(error, RuntimeError) or not message.startswith("DataLoader worker"):
        return None
    return DataError(
        f"a data worker process died: {message.partition(chr(10))[0].rstrip('. ')}. It was probably killed for want of "
        f"memory or of shared memory (/dev/shm); num_workers: 0 reads the data in the main process"
    )
