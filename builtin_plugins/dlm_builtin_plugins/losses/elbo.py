"""ELBO: cross-entropy times p'(t)/p(t), a bound on the likelihood (NLL, perplexity) for every schedule (MDLM)."""

from collections.abc import Iterable, Iterator

import attrs
import torch
from torch import Tensor

from dlm_builtin_plugins.losses.guidelines import average
from dlm_plugins import LossOutput, LossView, RunComponents
from dlm_plugins.attention_bias import blocks_are_separate
from dlm_plugins.masking import IS_INDEPENDENT
from dlm_plugins.noise_schedule import COVERS_UNIT_INTERVAL
from dlm_plugins.noise_type import IS_ABSORBING


@attrs.frozen(kw_only=True)
class ElboLoss:
    """Cross-entropy at corrupted positions times p'(t)/p(t): a true bound on the likelihood for every schedule.

    Sahoo et al. 2024, "Simple and Effective Masked Diffusion Language Models", arXiv:2406.07524, and Shi et al. 2024,
    arXiv:2406.04329. Its expectation is the same for every schedule that covers the unit interval; the schedule only
    decides where the samples, and with them the variance, go.
    """

    def __call__(self, view: LossView) -> LossOutput:
        """Score the corrupted positions with weight p'(t) / max(p(t), min_masking_rate)."""
        weight, normaliser = average(view, elbo_weight(view))
        return LossOutput(view.weighted_cross_entropy(view.scored, weight), normaliser)

    def incompatibilities(self, run: RunComponents) -> Iterable[str]:
        """Whatever would make the result no bound."""
        if not COVERS_UNIT_INTERVAL.of(run.noise_schedule):
            yield (
                f"elbo needs a schedule with p(0) = 0 and p(1) = 1, and {run.names['noise_schedule']} as configured "
                "is clipped; for the uniform schedule write {name: uniform, eps: 0}"
            )
        if not IS_INDEPENDENT.of(run.masking):
            yield (
                f"elbo needs positions to be masked independently of each other, and masking {run.names['masking']} "
                "does not do so; use masking bernoulli"
            )
        if run.mask_contiguous_region_prob > 0:
            yield "elbo needs positions to be masked independently of each other; set mask_contiguous_region_prob to 0"
        if not IS_ABSORBING.of(run.noise_type):
            yield f"elbo is a bound for masks only; noise type {run.names['noise_type']} writes other tokens, use mask"
        if run.reweight_cap is not None:
            yield "elbo is no bound under a cap on its weights; remove reweight_cap"
        yield from times_refused(run)


def elbo_weight(view: LossView) -> Tensor:
    """p'(t) / max(p(t), min_masking_rate) at what is scored: (B, L) float32, 0 elsewhere."""
    weight = torch.where(view.scored, view.rate_derivative / view.rate, 0.0)
    # A derivative may diverge at an end of the interval: a point that the integral over t does not see.
    return weight.masked_fill(weight.isinf(), 0.0)


def times_refused(run: RunComponents) -> Iterator[str]:
    """One time for all that is noised together: blocks that see no other noisy block may have their own."""
    if run.t_per not in (("sequence", "block") if blocks_are_separate(run.attention_bias) else ("sequence",)):
        yield (
            f"an ELBO is no bound with t_per {run.t_per} under attention bias {run.names['attention_bias']}: what is "
            "predicted together needs one time; use t_per sequence (or block, with block or block_causal attention)"
        )
