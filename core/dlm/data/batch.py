"""A micro-batch of clean rows; the step batch: its rows over gradient accumulation and ranks; random length."""

from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from dlm_plugins import KeyedDraws


@attrs.frozen(kw_only=True, eq=False)
class Batch:
    """B rows padded to L positions on the right. All tensors are (B, L) unless said otherwise."""

    input_ids: Tensor
    """int64: clean ids; the pad id on padding."""
    document_id: Tensor
    """int64: number of the document in its row, from 0; -1 on padding."""
    position: Tensor
    """int64: position within the document, from 0; 0 on padding."""
    eligible: Tensor
    """bool: positions that may be corrupted and scored. Pre-training: all real tokens; fine-tuning: the answers."""
    answer_start: Tensor
    """int64: position at which the answer of the document starts; 0 in pre-training."""
    answer_length: Tensor | None
    """int64: eligible positions of the document; 0 on padding. None in pre-training."""
    row_index: Tensor
    """(B,) int64: index of the row in the global step batch; -1 for a filler row, which holds only padding."""
    isolate_documents: bool
    """Whether documents of one row are hidden from each other (and positions restart with each)."""
    columns: Mapping[str, Tensor] = attrs.field(factory=dict)
    """(B,) further numeric columns of the data set, by name."""
    has_padding: bool = attrs.field(
        default=attrs.Factory(lambda batch: bool((batch.document_id < 0).any()), takes_self=True)
    )
    """Whether there may be padding. Looked up where the batch is made, on the host: elsewhere it would cost a wait."""

    @property
    def position_ids(self) -> Tensor:
        """(B, L) int64: positions for the model; they restart with each document where documents are isolated."""
        if self.isolate_documents:
            return self.position
        return torch.arange(self.position.shape[1], device=self.position.device).expand_as(self.position)

    def repeated(self, times: int) -> "Batch":
        """All rows, ``times`` times over."""
        if times == 1:
            return self
        copies: dict[str, Any] = {
            name: tensor.repeat(times, *[1] * (tensor.ndim - 1)) for name, tensor in self._tensor_fields().items()
        }
        columns = {name: column.repeat(times) for name, column in self.columns.items()}
        return attrs.evolve(self, columns=columns, **copies)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on ``device``."""
        moved: dict[str, Any] = {
            name: tensor.to(device, non_blocking=True) for name, tensor in self._tensor_fields().items()
        }
        columns = {name: column.to(device, non_blocking=True) for name, column in self.columns.items()}
        return attrs.evolve(self, columns=columns, **moved)

    def truncated(self, length: int) -> "Batch":
        """The first ``length`` positions of every row."""
        cut: dict[str, Any] = {
            name: tensor[:, :length] for name, tensor in self._tensor_fields().items() if tensor.ndim == 2
        }
        return attrs.evolve(self, **cut)

    def _tensor_fields(self) -> dict[str, Tensor]:
        values = {field.name: getattr(self, field.name) for field in attrs.fields(Batch)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}


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


@attrs.frozen(kw_only=True)
class RandomLength:
    """With ``probability``, cut all rows of a step to a length uniform in 1..max_length (Nie et al. 2025, LLaDA)."""

    probability: float
    max_length: int
    seed: int

    def __call__(self, batch: Batch, step: int) -> Batch:
        """Truncate or not: one coin a step, the same for every micro-batch and rank."""
        if self.probability == 0:
            return batch
        draws = KeyedDraws(seed=self.seed, step=step, rows=torch.zeros(1, dtype=torch.long), length=1, scope="length")
        if draws.per_row("coin").item() >= self.probability:
            return batch
        return batch.truncated(1 + int(draws.per_row("length").item() * self.max_length))
