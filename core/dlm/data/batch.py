"""A micro-batch of clean rows, as the forward process takes it."""

from collections.abc import Mapping

import attrs
import torch
from torch import Tensor


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

    def to(self, device: torch.device) -> "Batch":
        """The same batch on ``device``."""
        moved = {
            field.name: value.to(device, non_blocking=True)
            for field in attrs.fields(Batch)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        columns = {name: column.to(device, non_blocking=True) for name, column in self.columns.items()}
        return attrs.evolve(self, columns=columns, **moved)

    def truncated(self, length: int) -> "Batch":
        """The first ``length`` positions of every row."""
        cut = {
            field.name: value[:, :length]
            for field in attrs.fields(Batch)
            if isinstance(value := getattr(self, field.name), Tensor) and value.ndim == 2
        }
        return attrs.evolve(self, **cut)
