"""Preference optimisation (DPO) with ELBOs, their draws shared by policy and reference (VRPO of LLaDA 1.5)."""

from collections.abc import Iterable
from typing import ClassVar

import attrs
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from dlm_builtin_plugins.losses.by_answer import rows_of
from dlm_builtin_plugins.losses.elbo import elbo_weight, times_refused
from dlm_plugins import LossOutput, LossView, RunComponents
from dlm_plugins.loss import runs_of
from dlm_plugins.masking import IS_INDEPENDENT
from dlm_plugins.noise_type import IS_ABSORBING

_MOST_CLIPPED = 0.01
"""Of the mask rates at either end: what the schedules of LLaDA leave out."""


@attrs.frozen(kw_only=True)
class DpoLoss:
    """-log sigmoid of the margin between a chosen and a rejected answer, whose worth is beta (ELBO - reference's ELBO).

    Rafailov et al. 2023, arXiv:2305.18290; for diffusion Zhu et al. 2025 (LLaDA 1.5), arXiv:2505.19223: ELBOs stand for
    the log-likelihoods, each the mean of ``num_draws`` draws of one time and one mask. Policy and reference, and here
    both answers too, share their draws, which takes out most of the noise of their difference. Averaged over pairs.
    """

    is_likelihood_weighted: ClassVar[bool] = False
    needs_reference: ClassVar[bool] = True
    needs_pairs: ClassVar[bool] = True
    figures: ClassVar[tuple[str, ...]] = ("reward_accuracy", "reward_margin")

    beta: float = attrs.field(
        default=0.1,
        validator=attrs.validators.gt(0),
        metadata={"help": "How much a nat of difference from the reference is worth, greater than 0."},
    )
    num_draws: int = attrs.field(
        default=4,
        validator=attrs.validators.ge(1),
        metadata={"help": "Times and masks that each ELBO is estimated from, at least 1; a row each in memory."},
    )

    def __call__(self, view: LossView) -> LossOutput:
        """Score the pairs; reported are the share whose chosen answer is worth more (ties: half), and the margin."""
        where = view.scored
        new = view.log_probabilities(where)
        if view.pair is None or view.is_chosen is None or view.reference_log_probability is None:
            # Nothing to prefer: a zero that is connected to the graph.
            return LossOutput(
                0.0 * new.sum().float(), view.t.new_zeros(()), dict.fromkeys(self.figures, view.t.sum() * 0)
            )
        gain = new - view.reference_log_probability[where].to(new.dtype)  # (N,)
        share = 1 / (self.num_draws * view.num_views[:, 0])  # (B,)
        by_row = new.new_zeros(len(where)).index_add(0, rows_of(where), gain * elbo_weight(view)[where].to(new.dtype))
        signed = torch.where(view.is_chosen, by_row, -by_row) * share.to(new.dtype)
        place = runs_of(view.pair)  # (B,): pairs, of B places
        margin = self.beta * new.new_zeros(len(where)).index_add(0, place, signed)
        is_real = (view.pair >= 0) & view.is_chosen & view.eligible.any(dim=1)
        count = torch.zeros_like(share).index_add(0, place, share * is_real)  # 1, or 0 where there is no pair
        return LossOutput(
            (-logsigmoid(margin) * count).sum().float(), count.sum(), self._figures(margin.detach(), count)
        )

    def _figures(self, margin: Tensor, count: Tensor) -> dict[str, Tensor]:
        # A pair of which nothing that tells its answers apart was hidden is undecided.
        sums = (0.5 * (margin.sign() + 1) * count).sum(), (margin * count).sum()
        return dict(zip(self.figures, sums, strict=True))

    def incompatibilities(self, run: RunComponents) -> Iterable[str]:
        """Whatever would make the estimates no ELBOs."""
        if not IS_INDEPENDENT.of(run.masking) or run.mask_contiguous_region_prob > 0:
            yield "dpo needs positions to be masked independently of each other; use masking bernoulli alone"
        if not IS_ABSORBING.of(run.noise_type):
            yield f"dpo needs masks, and noise type {run.names['noise_type']} writes other tokens; use mask"
        if run.reweight_cap is not None:
            yield "dpo needs the weights of the ELBO as they are; remove reweight_cap"
        lowest, highest = run.noise_schedule.mask_rate(torch.tensor([0.0, 1.0])).tolist()
        if lowest > _MOST_CLIPPED or highest < 1 - _MOST_CLIPPED:
            yield (
                f"dpo needs all mask rates, and {run.names['noise_schedule']} as configured draws {lowest:.4g} to "
                f"{highest:.4g}; remove what clips it (low, high)"
            )
        yield from times_refused(run)
