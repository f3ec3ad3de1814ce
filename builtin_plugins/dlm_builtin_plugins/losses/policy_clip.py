"""Policy gradient with clipped ratios (PPO, GRPO, GSPO), maybe with a KL penalty to a reference: mode rl."""

import math
from collections.abc import Iterable
from typing import ClassVar, Literal

import attrs
import torch
from torch import Tensor

from dlm_builtin_plugins.losses.by_answer import rows_of
from dlm_plugins import LossOutput, LossView, RunComponents
from dlm_plugins.loss import runs_of

_LARGEST = 20.0
"""Differences of log-probabilities beyond this are cut before they are exponentiated."""


@attrs.frozen(kw_only=True)
class PolicyClipLoss:
    """Advantage times the ratio of new to old probability, clipped where that would go too far (PPO; GRPO).

    Schulman et al. 2017, arXiv:1707.06347; Shao et al. 2024, arXiv:2402.03300. Which log-probabilities stand for an
    answer is the masking's choice: with ``trace`` they are those of the rollout's own steps. With one update per
    rollout the ratio is exactly 1, and this is the plain policy gradient. ``ratio: answer`` takes one ratio for a whole
    answer, exp of its log-ratio over its length (GSPO: Zheng et al. 2025, arXiv:2507.18071; ESPO), for estimates whose
    single terms are no probabilities. On samples of the policy ``k2`` has the gradient of KL(policy || reference),
    ``k3`` that of KL(reference || policy).
    """

    is_likelihood_weighted: ClassVar[bool] = False
    needs_advantage: ClassVar[bool] = True

    ratio: Literal["token", "answer"] = attrs.field(
        default="token",
        validator=attrs.validators.in_(("token", "answer")),
        metadata={"help": "What is clipped: the ratio of each token, or one for the whole answer."},
    )
    low: float = attrs.field(
        default=0.2,
        validator=[attrs.validators.gt(0), attrs.validators.le(1)],
        metadata={"help": "The ratio is clipped below 1 - low, in (0, 1]."},
    )
    high: float = attrs.field(
        default=0.2,
        validator=attrs.validators.gt(0),
        metadata={"help": "The ratio is clipped above 1 + high, greater than 0."},
    )
    kl: Literal["none", "k2", "k3"] = attrs.field(
        default="none",
        validator=attrs.validators.in_(("none", "k2", "k3")),
        metadata={"help": "Estimate of the divergence from the reference that is added, times beta."},
    )
    beta: float = attrs.field(
        default=0.0,
        validator=attrs.validators.ge(0),
        metadata={"help": "Weight of the divergence, at least 0; goes with kl."},
    )
    per: Literal["token", "answer", "constant"] = attrs.field(
        default="constant",
        validator=attrs.validators.in_(("token", "answer", "constant")),
        metadata={
            "help": "Averaged over tokens, over answers (each the mean of its tokens), or constant: over answers as "
            "they are, sums of their tokens, which is the policy gradient itself."
        },
    )
    floor: float = attrs.field(
        default=0.0,
        validator=[attrs.validators.ge(0), attrs.validators.lt(1)],
        metadata={
            "help": "With ratio token: tokens of negative advantage that are less probable are not pushed further."
        },
    )

    @property
    def needs_reference(self) -> bool:
        """For the divergence."""
        return self.kl != "none" and self.beta > 0

    @property
    def ratio_bounds(self) -> tuple[float, float]:
        """Where ratios are clipped."""
        return 1 - self.low, 1 + self.high

    def __call__(self, view: LossView) -> LossOutput:
        """Score what the masking scores, with the weights that make it an estimate of the answer's probability."""
        where = view.scored
        length = view.eligible.sum(dim=1).clamp(min=1)  # (B,)
        row = rows_of(where)
        new = view.log_probabilities(where)
        old = new.detach() if view.old_log_probability is None else view.old_log_probability[where].to(new.dtype)
        weight = (view.weight / view.num_views)[where].to(new.dtype)  # (N,)
        share = weight / length[row] if self.per == "answer" else weight
        advantage = torch.zeros_like(old) if view.advantage is None else view.advantage[where].to(new.dtype)
        if self.ratio == "token":
            gain = (share * self._of_tokens(new, old, advantage)).sum()
        else:
            gain = self._of_answers(view, weight * (new - old), weight * advantage, weight, row).sum()
        if self.needs_reference and view.reference_log_probability is not None:
            reference = view.reference_log_probability[where].to(new.dtype)
            gain = gain - self.beta * (share * self._divergence(new, reference)).sum()
        counted = view.eligible / view.num_views  # (B, L)
        normaliser = counted.sum() if self.per == "token" else (counted / length[:, None]).sum()
        return LossOutput(-gain.float(), normaliser)

    def incompatibilities(self, run: RunComponents) -> Iterable[str]:
        """Options that others leave without an effect."""
        if self.kl == "none" and self.beta > 0:
            yield f"beta ({self.beta}) has no effect without a divergence; set kl to k2 or k3, or remove it"
        if self.kl != "none" and self.beta == 0:
            yield f"kl {self.kl} has no effect with beta 0; raise beta, or remove it"
        if self.floor > 0 and self.ratio == "answer":
            yield "floor looks at single tokens, and has no effect with ratio answer; remove one of them"

    def _of_tokens(self, new: Tensor, old: Tensor, advantage: Tensor) -> Tensor:
        """(N,): what each token gains."""
        gain = self._clipped(new - old, advantage)
        if self.floor == 0:
            return gain
        return gain.masked_fill((advantage < 0) & (new.detach() < math.log(self.floor)), 0.0)

    def _of_answers(self, view: LossView, log_ratio: Tensor, advantage: Tensor, weight: Tensor, row: Tensor) -> Tensor:
        """(B,): what each answer gains, from (N,) weighted terms; its views are neighbours, and at one place of B."""
        rows, place = view.row_index, runs_of(view.row_index)
        length = weight.new_ones(len(rows)).scatter_reduce(0, place, view.eligible.sum(dim=1).to(weight.dtype), "amax")
        sums = weight.new_zeros(3, len(rows)).index_add(1, place[row], torch.stack((log_ratio, advantage, weight)))
        gain = self._clipped(sums[0] / length, sums[1] / sums[2].clamp(min=1e-30))
        return gain if self.per == "answer" else gain * length

    def _clipped(self, log_ratio: Tensor, advantage: Tensor) -> Tensor:
        ratio = log_ratio.clamp(max=_LARGEST).exp()
        low, high = self.ratio_bounds
        return torch.minimum(ratio * advantage, ratio.clamp(low, high) * advantage)

    def _divergence(self, new: Tensor, reference: Tensor) -> Tensor:
        """(N,), never negative."""
        if self.kl == "k2":
            return 0.5 * (new - reference).square()
        gap = (reference - new).clamp(max=_LARGEST)
        return gap.exp() - gap - 1
