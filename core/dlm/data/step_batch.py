"""The global step batch: how rows are shared by gradient accumulation and ranks, and filled up at an epoch's end."""

from collections.abc import Mapping
from typing import Any

import attrs

from dlm.data.batch import Batch

FILLER = -1
"""Index of a row that is not there: it keeps ranks in step at the end of an epoch."""


@attrs.frozen(kw_only=True, eq=False)
class StepBatch:
    """The part of a global step batch that this rank works on."""

    epoch: int
    epoch_batch: int
    """Number of this step in its epoch, from 0."""
    num_rows: int
    """Real rows in the global step batch, over all micro-steps and ranks."""
    micro_batches: list[Batch]
    """One batch per micro-step, the same number on every rank."""
    row_ids: tuple[int, ...]
    """Numbers of the rows of the global step batch in the data set, all ranks: row k is ``row_ids[k]``."""
    data_state: Mapping[str, Any] | None = None
    """Streaming only: the position behind this step, to be stored in a checkpoint as JSON. Otherwise epoch and
    epoch_batch say it all."""

    def next_position(self, steps_per_epoch: int | None) -> tuple[int, int]:
        """Epoch and batch that follow; None: a stream, which says by itself when an epoch ends."""
        if self.epoch_batch + 1 == steps_per_epoch:
            return self.epoch + 1, 0
        return self.epoch, self.epoch_batch + 1


@attrs.frozen(kw_only=True)
class StepShape:
    """How the G = batch_size x accumulation x world_size rows of a global step batch are shared out.

    Micro-step m of rank r takes the rows from (m * world_size + r) * batch_size on. So the same G rows make up a step
    however they are split over micro-steps and ranks.
    """

    batch_size: int = attrs.field(validator=attrs.validators.ge(1))
    accumulation: int = attrs.field(default=1, validator=attrs.validators.ge(1))
    rank: int = 0
    world_size: int = 1

    @property
    def rows_per_step(self) -> int:
        """G."""
        return self.batch_size * self.accumulation * self.world_size

    def micro_steps(self, num_rows: int) -> list[tuple[int, ...]]:
        """Row indices of this rank for each micro-step of a step with ``num_rows`` real rows.

        Missing rows are fillers. A micro-step in which all ranks would have nothing but fillers is left out, on all of
        them.
        """
        own = self.rank * self.batch_size
        starts = range(own, own + num_rows, self.batch_size * self.world_size)
        return [tuple(k if k < num_rows else FILLER for k in range(start, start + self.batch_size)) for start in starts]
