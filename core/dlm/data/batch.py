"""The fields of a micro-batch of clean rows: ids, documents, positions, eligible positions, answers."""

from collections.abc import Mapping
from typing import Any

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
