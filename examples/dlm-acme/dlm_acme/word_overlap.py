"""Word overlap."""

from collections import Counter
from typing import Any

import attrs
import torch
from torch import Tensor

from dlm_plugins import RewardItem, RewardRequest


@attrs.frozen(kw_only=True)
class WordOverlap:
    """F-measure of the words that an answer shares with the text of a column, whatever their order."""

    column: str = attrs.field(
        default="answer",
        validator=attrs.validators.min_len(1),
        metadata={"help": "Column with the text to compare with."},
    )

    @property
    def columns(self) -> dict[str, Any]:
        """The one column that is read."""
        return {self.column: "The answer is 7."}

    def score(self, request: RewardRequest) -> Tensor:
        """In [0, 1] for each answer."""
        return torch.tensor([self._f_measure(item) for item in request.items], dtype=torch.float32)

    def _f_measure(self, item: RewardItem) -> float:
        reference = item.columns[self.column]
        if not isinstance(reference, str):
            raise ValueError(f"column {self.column!r} must hold a text, not {reference!r}")
        words, wanted = (Counter(text.casefold().split()) for text in (item.answer, reference))
        shared = (words & wanted).total()
        return 2 * shared / (words.total() + wanted.total()) if shared else 0.0
