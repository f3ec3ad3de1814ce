"""What a loss sees of a batch: weights, times, cross-entropy, log-probabilities, and logits on request."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dlm.diffusion.cross_entropy import LogProbabilities, SamplingLaw, Smoothing, WeightedCrossEntropy
from dlm.diffusion.forward_process import NoisedBatch
from dlm.diffusion.vocabulary import Vocabulary


class BatchView:
    """The :class:`dlm_plugins.LossView` of the core. B rows, L positions, H hidden, V vocabulary, N scored."""

    def __init__(
        self,
        noised: NoisedBatch,
        hidden_BLH: Tensor,
        head: nn.Linear,
        vocabulary: Vocabulary,
        *,
        compiles: bool = False,
        law: SamplingLaw | None = None,
        causal: Tensor | None = None,
    ) -> None:
        # On the CPU it is slower than what torch has.
        self._compiles = compiles and hidden_BLH.is_cuda
        self._hidden = hidden_BLH.flatten(0, 1)
        self._head = head
        self._vocabulary = vocabulary
        self._law = law
        self._causal = causal
        self._clean = noised.clean
        self.noisy_ids = noised.noisy_ids
        self.clean_ids = noised.clean.input_ids
        self.mask_id = vocabulary.mask_id
        self.corrupted = noised.corrupted
        self.scored = noised.scored
        self.num_views = noised.num_views
        self.eligible = noised.clean.eligible
        self.p_mask = noised.p_mask
        self.weight = noised.weight
        self.t = noised.t
        self.rate = noised.rate
        self.rate_derivative = noised.rate_derivative
        self.answer_length = noised.clean.answer_length
        self.document_id = noised.clean.document_id
        self.columns: Mapping[str, Tensor] = noised.clean.columns
        self.row_index = noised.clean.row_index
        self.pair = noised.clean.pair
        self.is_chosen = noised.clean.is_chosen
        policy = noised.policy
        self.advantage = None if policy is None else policy.advantage
        self.group_advantage = None if policy is None else policy.group_advantage
        self.old_log_probability = None if policy is None else policy.old_log_probability
        self.reference_log_probability = None if policy is None else policy.reference_log_probability
        self.cross_entropy = torch.zeros_like(self.p_mask)
        """(B, L) float32: unweighted cross-entropy, wherever it has been computed."""
        self.correct = torch.zeros_like(self.corrupted)
        """(B, L) bool: whether the clean id is the one a greedy sampler takes: of equally likely ids the first."""
        self._known = torch.zeros_like(self.corrupted)
        self._scored_index = noised.scored_index
        self._scored_are_known = False

    def weighted_cross_entropy(self, where: Tensor, weight: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Sum over ``where`` of weight x cross-entropy, see the contract. A connected zero where nothing is scored."""
        scored_N = self._index(where)
        total, cross_entropy_N, correct_N = WeightedCrossEntropy.apply(  # type: ignore[no-untyped-call]
            self._hidden[scored_N],
            self._head.weight,
            self._head.bias,
            self.clean_ids.flatten()[scored_N],
            weight.detach().flatten()[scored_N],
            self._smoothing(label_smoothing) if label_smoothing else None,
            self._compiles,
        )
        self._record(where, scored_N, cross_entropy_N, correct_N)
        scalar: Tensor = total
        return scalar

    def next_token_cross_entropy(self, where: Tensor, weight: Tensor) -> Tensor:
        """Sum over ``where`` of weight x cross-entropy, see the contract."""
        if self._causal is None:
            raise AssertionError("the loss does not claim needs_causal_copy")
        scored_N = (where & (self._clean.position_ids > 0)).flatten().nonzero()[:, 0]
        total: Tensor = WeightedCrossEntropy.apply(  # type: ignore[no-untyped-call]
            self._causal.flatten(0, 1)[scored_N],
            self._head.weight,
            self._head.bias,
            self.clean_ids.flatten()[scored_N],
            weight.detach().flatten()[scored_N],
            None,
            self._compiles,
        )[0]
        return total

    def log_probabilities(self, where: Tensor) -> Tensor:
        """(N,) float32, differentiable, see the contract."""
        scored_N = self._index(where)
        log_probability_N, correct_N = LogProbabilities.apply(  # type: ignore[no-untyped-call]
            self._hidden[scored_N], self._head.weight, self._head.bias, self.clean_ids.flatten()[scored_N], self._law
        )
        self._record(where, scored_N, -log_probability_N.detach(), correct_N)
        result: Tensor = log_probability_N
        return result

    def logits(self, where: Tensor) -> Tensor:
        """(N, V) logits, see the contract."""
        logits: Tensor = self._head(self._hidden[self._index(where)])
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def score_all(self) -> None:
        """Make ``cross_entropy`` and ``correct`` known at every position that counts, if the loss did not."""
        if self._scored_are_known:
            return
        missing = self.scored & ~self._known
        if missing.any():
            with torch.no_grad():
                self.weighted_cross_entropy(missing, torch.zeros_like(self.p_mask))

    def _index(self, where: Tensor) -> Tensor:
        """(N,) int64: the positions ``where`` (B, L) is true; the host waits unless they are the scored ones."""
        return self._scored_index if where is self.scored else where.flatten().nonzero()[:, 0]

    def _record(self, where: Tensor, scored_N: Tensor, cross_entropy_N: Tensor, correct_N: Tensor) -> None:
        self.cross_entropy.view(-1)[scored_N] = cross_entropy_N.to(self.cross_entropy.dtype)
        self.correct.view(-1)[scored_N] = correct_N
        self._known.view(-1).index_fill_(0, scored_N, True)
        self._scored_are_known = self._scored_are_known or where is self.scored

    def _smoothing(self, amount: float) -> Smoothing:
        ids = torch.arange(self._head.weight.shape[0], device=self._hidden.device)
        is_real = ((ids < self._vocabulary.size) & (ids != self._vocabulary.mask_id)).float()
        return Smoothing(amount=amount, share=is_real / is_real.sum())
