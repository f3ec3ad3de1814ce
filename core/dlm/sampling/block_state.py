"""What a remasking rule sees of the active blocks: candidates, confidence, entropy, margin, quota, draws."""

from collections.abc import Callable

import attrs
import torch
from torch import Tensor

from dlm.sampling.candidates import Predictions
from dlm.sampling.sampling_draws import BlockDraws


@attrs.define(kw_only=True, eq=False)
class BlockState:
    """R blocks of K positions: an implementation of ``dlm_plugins.remasking.DecodingState``, whose words it keeps.

    Entropy and margin need the whole distribution and are computed when asked.
    """

    candidates: Tensor
    log_probability: Tensor
    masked: Tensor
    committed_ids: Tensor
    committed_confidence: Tensor
    committed_step: Tensor
    quota: Tensor
    step: int
    num_steps: int
    draws: BlockDraws
    predicted: Tensor
    """(R, K) bool: positions the model was asked about; the N predictions stand there in order."""
    predictions: Predictions
    part: slice
    """Which of the predictions are this state's."""

    @property
    def confidence(self) -> Tensor:
        """(R, K) float32 or wider, in [0, 1]: untempered probability of the candidate; -inf where not predicted."""
        return torch.where(self.predicted, self.log_probability.exp(), -torch.inf)

    @property
    def entropy(self) -> Tensor:
        """(R, K) float32 or wider, in nats; inf where not predicted."""
        return self._spread(self.predictions.entropy, torch.inf)

    @property
    def margin(self) -> Tensor:
        """(R, K) float32 or wider, in [0, 1]; -inf where not predicted."""
        return self._spread(self.predictions.margin, -torch.inf)

    def _spread(self, compute: Callable[[], Tensor], elsewhere: float) -> Tensor:
        values = compute()[self.part]
        spread = torch.full(self.predicted.shape, elsewhere, dtype=values.dtype, device=values.device)
        return spread.masked_scatter_(self.predicted, values)
