"""Random length: by one coin a step, all rows are cut to a random length, as LLaDA pre-trains (1 % of the steps)."""

import attrs
import torch

from dlm.data.batch import Batch
from dlm_plugins import KeyedDraws


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
