"""A loss view without any cleverness: all logits, float64, one expression for each method."""

from collections.abc import Mapping

import attrs
import torch
from torch import Tensor


@attrs.frozen(kw_only=True, eq=False)
class ReferenceView:
    """A ``LossView`` over full logits (B, L, V). Slow and plain: what fast views are compared with."""

    all_logits: Tensor
    """(B, L, V), of any float dtype; usually the leaf whose gradient is asked for."""
    noisy_ids: Tensor
    clean_ids: Tensor
    mask_id: int
    corrupted: Tensor
    eligible: Tensor
    p_mask: Tensor
    t: Tensor
    rate: Tensor
    rate_derivative: Tensor
    document_id: Tensor
    answer_length: Tensor | None = None
    columns: Mapping[str, Tensor] = attrs.field(factory=dict)
    vocabulary_size: int | None = None
    """Number of real ids; logits beyond belong to padded rows of the embedding. None: all of them are real."""
    reweight_cap: float | None = None
    scored: Tensor = attrs.field(default=attrs.Factory(lambda self: self.corrupted, takes_self=True))
    num_views: Tensor = attrs.field(default=attrs.Factory(lambda self: torch.ones_like(self.p_mask), takes_self=True))
    row_index: Tensor = attrs.field(
        default=attrs.Factory(lambda self: torch.arange(len(self.p_mask), device=self.p_mask.device), takes_self=True)
    )
    pair: Tensor | None = None
    is_chosen: Tensor | None = None
    advantage: Tensor | None = None
    group_advantage: Tensor | None = None
    old_log_probability: Tensor | None = None
    reference_log_probability: Tensor | None = None

    @property
    def weight(self) -> Tensor:
        """(B, L) float32: min(1 / p_mask, reweight_cap), 0 where p_mask is 0."""
        cap = float("inf") if self.reweight_cap is None else self.reweight_cap
        return torch.where(self.p_mask > 0, (1 / self.p_mask).clamp(max=cap), 0.0)

    def weighted_cross_entropy(self, where: Tensor, weight: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Sum over ``where`` of weight x ((1 - s) x cross-entropy + s x mean cross-entropy with all real ids)."""
        log_probabilities = self._log_softmax(where)
        cross_entropy = -log_probabilities.gather(1, self.clean_ids[where][:, None])[:, 0]
        spread = -log_probabilities[:, self._is_real_id()].mean(1)
        smoothed = (1 - label_smoothing) * cross_entropy + label_smoothing * spread
        return (weight[where].detach().double() * smoothed).sum().float()

    def next_token_cross_entropy(self, where: Tensor, weight: Tensor) -> Tensor:
        """As if the causal copy had the logits of the noisy rows."""
        follows = torch.zeros_like(where)
        follows[:, 1:] = self.document_id[:, 1:] == self.document_id[:, :-1]
        return self.weighted_cross_entropy(where & follows, weight)

    def log_probabilities(self, where: Tensor) -> Tensor:
        """Log-probability of the clean id at each position of ``where``: (N,) float32."""
        return self._log_softmax(where).gather(1, self.clean_ids[where][:, None])[:, 0].float()

    def logits(self, where: Tensor) -> Tensor:
        """(N, V) logits in their own dtype."""
        return self.all_logits[where]

    def _log_softmax(self, where: Tensor) -> Tensor:
        return self.all_logits[where].double().log_softmax(-1)

    def _is_real_id(self) -> Tensor:
        """(V,) bool: ids that smoothing mass may go to."""
        ids = torch.arange(self.all_logits.shape[-1], device=self.all_logits.device)
        last = ids.shape[0] if self.vocabulary_size is None else self.vocabulary_size
        return (ids < last) & (ids != self.mask_id)
