"""Collate rows to a batch: padding on the right, to the longest row, and filler rows."""

from collections.abc import Sequence

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dlm.data.batch import Batch
from dlm.data.rows import Row


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
    return Row(
        input_ids=np.pad(row.input_ids, (0, missing), constant_values=fill),
        document_id=np.pad(row.document_id, (0, missing), mode="edge"),
        position=np.concatenate([row.position, row.position[-1] + np.arange(1, missing + 1, dtype=np.int32)]),
        eligible=np.pad(row.eligible, (0, missing), constant_values=True),
        columns=row.columns,
        answer_start=np.pad(row.answer_start, (0, missing), mode="edge"),
        answer_length=None if answer_length is None else np.pad(answer_length, (0, missing), mode="edge"),
    )
