"""What a row of a training set holds, and how rows are addressed by number."""

from collections.abc import Mapping
from typing import Protocol

import attrs
import numpy as np
from numpy.typing import NDArray


@attrs.frozen(kw_only=True, eq=False)
class Row:
    """One row of n real tokens, without padding. All arrays are (n,)."""

    input_ids: NDArray[np.int32]
    """Clean ids."""
    document_id: NDArray[np.int32]
    """Number of the document in this row, from 0, not falling."""
    position: NDArray[np.int32]
    """Position within the document, counted from 0 where the document starts in this row."""
    eligible: NDArray[np.bool_]
    """Positions that may be corrupted and scored."""
    answer_start: NDArray[np.int32]
    """Position from which blocks count: the start of the document's answer; 0 in pre-training, or if they count
    from the start of the prompt."""
    answer_length: NDArray[np.int32] | None = None
    """Eligible positions of the document; None in pre-training."""
    columns: Mapping[str, float] = attrs.field(factory=dict)
    """Further numeric columns of the data set, by name; not in packed rows."""
    committed_step: NDArray[np.int32] | None = None
    """Denoising step at which each position was written; -1 where it was given. None where the data does not say."""
    rejected: "Row | None" = None
    """Of a pair of answers to the same prompt, the one that is less liked than this one."""


class Rows(Protocol):
    """N rows made of D documents."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(N,) number of tokens in each row, at least 1."""
        ...

    @property
    def document_lengths(self) -> NDArray[np.int64]:
        """(D,) number of tokens in each document."""
        ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that the rows hold: another one means that the data, tokenizer or settings changed."""
        ...

    @property
    def num_tokens(self) -> int:
        """Real tokens in all rows."""
        ...

    @property
    def num_documents(self) -> int:
        """Documents (in fine-tuning: examples) the rows are made of."""
        ...

    @property
    def column_names(self) -> tuple[str, ...]:
        """Numeric columns of the data set that each row has."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Row: ...

    def select(self, rows: NDArray[np.int64]) -> "Rows":
        """Only these rows, in this order."""
        ...

    def select_documents(self, documents: NDArray[np.int64]) -> "Rows":
        """Rows made of these documents alone, in this order."""
        ...

    def summary(self) -> str:
        """One line for people."""
        ...
