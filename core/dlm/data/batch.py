"""Collate rows to a padded micro-batch; the step batch (gradient accumulation, ranks); random length."""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, TypeAlias

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dlm.data.rows import Row
from dlm_plugins import KeyedDraws

LayoutKey: TypeAlias = tuple[object, ...]
"""Equal where the rows of two batches hold documents and answers at the same places."""


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` on ``device``. Nobody waits for it: from other memory than pinned the host would."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.contiguous().pin_memory()  # pinning cannot copy an expanded tensor
    return tensor.to(device, non_blocking=True)


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
    """int64: position from which blocks count: the start of the document's answer; 0 in pre-training, or if they
    count from the start of the prompt."""
    answer_length: Tensor | None
    """int64: eligible positions of the document; 0 on padding. None in pre-training."""
    row_index: Tensor
    """(B,) int64: index of the row in the global step batch; -1 for a filler row, which holds only padding."""
    isolate_documents: bool
    """Whether documents of one row are hidden from each other (and positions restart with each)."""
    columns: Mapping[str, Tensor] = attrs.field(factory=dict)
    """(B,) further numeric columns of the data set, by name."""
    committed_step: Tensor | None = None
    """int64: denoising step at which each position was written; -1 where it was given. None where nobody knows."""
    pair: Tensor | None = None
    """(B,) int64: number of the pair in the global step batch, not falling; -1 for a filler row. None: no pairs."""
    is_chosen: Tensor | None = None
    """(B,) bool: whether the row is the better one of its pair. None: no pairs."""
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

    def rows_at(self, index: Tensor) -> "Batch":
        """The rows at ``index`` (R,) int64, in this order; a row may come several times."""
        copies: dict[str, Any] = {name: tensor[index] for name, tensor in self._tensor_fields().items()}
        columns = {name: column[index] for name, column in self.columns.items()}
        return attrs.evolve(self, columns=columns, **copies)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on ``device``."""
        moved: dict[str, Any] = {name: sent(tensor, device) for name, tensor in self._tensor_fields().items()}
        columns = {name: sent(column, device) for name, column in self.columns.items()}
        return attrs.evolve(self, columns=columns, **moved)

    def truncated(self, length: int) -> "Batch":
        """The first ``length`` positions of every row."""
        cut: dict[str, Any] = {
            name: tensor[:, :length] for name, tensor in self._tensor_fields().items() if tensor.ndim == 2
        }
        return attrs.evolve(self, **cut)

    def layout_key(self) -> LayoutKey:
        """The key of this batch. It takes reading the numbers."""
        placed = torch.stack((self.document_id, self.position, self.answer_start)).cpu().numpy()
        return placed.shape, blake2b(placed.tobytes(), digest_size=16).digest(), self.isolate_documents

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


@attrs.frozen(kw_only=True)
class Collator:
    """Pads rows on the right.

    Pads to the longest row of the micro-batch, which changes nothing but the time it takes: noise is drawn by row and
    position, and padding is never attended to.
    """

    pad_id: int
    isolate_documents: bool = False
    """Hide the documents of one row from each other."""
    has_answers: bool = False
    """Fine-tuning: give the batch answer lengths, also where it holds nothing but filler rows."""
    column_names: tuple[str, ...] = ()
    """Numeric columns of the rows that go into the batch; 0 in filler rows."""
    has_pairs: bool = False
    """Each row comes with a rejected one, its neighbour in the batch. Both have the index of the pair, and with it the
    same draws."""
    has_steps: bool = False
    """The rows say at which step each position was written."""
    trained_padding_id: int | None = None
    """Fill each row up to the longest of the *global step batch* with this id, as part of its last document: real,
    attended to and eligible (LLaDA's guideline for fine-tuning). None: padding is not real."""

    def __call__(self, rows: Sequence[Row | None], row_index: Sequence[int], step_length: int) -> Batch:
        """Make a batch of B rows.

        Args:
            rows: None makes a filler row, which holds only padding.
            row_index: (B,) index of each row in the global step batch; -1 for a filler row.
            step_length: tokens in the longest row of the global step batch.
        """
        if self.has_pairs:
            rows = [side for row in rows for side in (row, None if row is None else row.rejected)]
            row_index = [index for index in row_index for _ in range(2)]
        if self.trained_padding_id is not None:
            rows = [None if row is None else _extended(row, step_length, self.trained_padding_id) for row in rows]
        length = max((len(row.input_ids) for row in rows if row is not None), default=step_length)
        answer_lengths = [None if row is None else row.answer_length for row in rows]
        has_answers = self.has_answers or any(lengths is not None for lengths in answer_lengths)
        return Batch(
            input_ids=_padded([None if row is None else row.input_ids for row in rows], length, self.pad_id),
            document_id=_padded([None if row is None else row.document_id for row in rows], length, -1),
            position=_padded([None if row is None else row.position for row in rows], length, 0),
            eligible=_padded([None if row is None else row.eligible for row in rows], length, 0).bool(),
            answer_start=_padded([None if row is None else row.answer_start for row in rows], length, 0),
            answer_length=_padded(answer_lengths, length, 0) if has_answers else None,
            row_index=torch.tensor(row_index, dtype=torch.int64),
            committed_step=_padded([None if row is None else row.committed_step for row in rows], length, -1)
            if self.has_steps
            else None,
            pair=torch.tensor(row_index, dtype=torch.int64) if self.has_pairs else None,
            is_chosen=torch.arange(len(rows)) % 2 == 0 if self.has_pairs else None,
            isolate_documents=self.isolate_documents,
            columns={
                name: torch.tensor([0.0 if row is None else row.columns[name] for row in rows], dtype=torch.float32)
                for name in self.column_names
            },
        )


def _padded(arrays: Sequence[NDArray[np.generic] | None], length: int, fill: int) -> Tensor:
    """(B, length) int64; None is a row of padding."""
    padded = np.full((len(arrays), length), fill, np.int64)
    for line, array in zip(padded, arrays, strict=True):
        if array is not None:
            line[: len(array)] = array
    return torch.from_numpy(padded)


def _extended(row: Row, length: int, fill: int) -> Row:
    """The row with its last document continued by ``fill`` up to ``length``; the answer grows with it."""
    missing = length - len(row.input_ids)
    if missing <= 0:
        return row
    last = row.document_id == row.document_id[-1]
    answer_length = None if row.answer_length is None else row.answer_length + missing * last
    steps = row.committed_step
    return Row(
        input_ids=np.pad(row.input_ids, (0, missing), constant_values=fill),
        document_id=np.pad(row.document_id, (0, missing), mode="edge"),
        position=np.concatenate([row.position, row.position[-1] + np.arange(1, missing + 1, dtype=np.int32)]),
        eligible=np.pad(row.eligible, (0, missing), constant_values=True),
        columns=row.columns,
        committed_step=None if steps is None else np.pad(steps, (0, missing), constant_values=-1),
        answer_start=np.pad(row.answer_start, (0, missing), mode="edge"),
        answer_length=None if answer_length is None else np.pad(answer_length, (0, missing), mode="edge"),
    )
