"""The objective of learning from rewards: log-probabilities of rollouts, ratios, divergences (KL), and their figures.

Sums over tokens, on the device, then as numbers: they add up over micro-batches and ranks.
"""

import math
from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from dlm.diffusion.forward_process import NoisedBatch
from dlm.diffusion.objective import DiffusionObjective
from dlm.diffusion.sums import Sums, ratio
from dlm.diffusion.view import BatchView
from dlm_plugins.loss import RATIO_BOUNDS

_NUM_BINS = 100
_BIN_OF_P, _BIN_OF_RATIO = 0.5, 0.05
"""In nats: bins of log-probabilities below 0, and of differences of log-probabilities above 0."""
_LOW_QUANTILE = 0.01


class PolicyObjective(DiffusionObjective):
    """Loss of rollouts under the views of a masking; the sums that are returned hold :class:`PolicySums` behind."""

    def forward(self, noised: NoisedBatch) -> tuple[Tensor, Tensor]:
        """As :meth:`DiffusionObjective.forward`."""
        view = self.view_of(noised)
        output = self._loss(view)
        sums = Sums.pack(view, output.total, output.normaliser)
        return output.total, torch.cat((sums, PolicySums.pack(view, RATIO_BOUNDS.of(self._loss))))


@attrs.define
class PolicySums:
    """Sums over scored tokens."""

    tokens: float = 0.0
    ratio: float = 0.0
    clipped: float = 0.0
    """Tokens whose ratio is beyond the loss's bounds."""
    kl_to_old: float = 0.0
    kl_to_reference: float = 0.0
    surprise: float = 0.0
    """Of -log p: of tokens that were drawn, their mean is an estimate of the entropy."""
    low_p: Sequence[float] = ()
    """Tokens of negative advantage by -log p, in bins of half a nat."""
    high_ratio: Sequence[float] = ()
    """Tokens by log ratio, in bins of 0.05; the first holds what is not above 0."""

    @staticmethod
    @torch.no_grad()
    def pack(view: BatchView, bounds: tuple[float, float]) -> Tensor:
        """The sums of a micro-batch as a float32 vector, to be added up and given to :meth:`unpack`."""
        where = view.scored
        new = -view.cross_entropy[where]
        old = new if view.old_log_probability is None else view.old_log_probability[where].to(new.dtype)
        reference = new if view.reference_log_probability is None else view.reference_log_probability[where]
        advantage = torch.zeros_like(new) if view.advantage is None else view.advantage[where]
        log_ratio = (new - old).clamp(-20, 20)
        ratios, gap = log_ratio.exp(), (reference.to(new.dtype) - new).clamp(-20, 20)
        is_clipped = (ratios < bounds[0]) | (ratios > bounds[1])
        by_token = (torch.ones_like(new), ratios, is_clipped, ratios - 1 - log_ratio, gap.exp() - 1 - gap, -new)
        bins = torch.zeros(2, _NUM_BINS, device=new.device)
        bins[0].index_add_(0, _bin(-new / _BIN_OF_P), (advantage < 0).float())
        bins[1].index_add_(0, _bin((log_ratio / _BIN_OF_RATIO).ceil()), torch.ones_like(bins[1, :1]).expand(len(new)))
        return torch.cat((torch.stack([each.float().sum() for each in by_token]), bins.flatten()))

    @classmethod
    def unpack(cls, vector: Sequence[float]) -> "PolicySums":
        """The sums from the numbers of a vector of :meth:`pack`."""
        tokens, ratios, clipped, old, reference, surprise = vector[: -2 * _NUM_BINS]
        by_p, by_ratio = vector[-2 * _NUM_BINS : -_NUM_BINS], vector[-_NUM_BINS:]
        return cls(tokens, ratios, clipped, old, reference, surprise, by_p, by_ratio)

    def figures(self, *, has_reference: bool) -> dict[str, float | None]:
        """What is logged; None of nothing. Quantile and largest ratio are edges of bins."""
        return {
            "ratio_mean": ratio(self.ratio, self.tokens),
            "ratio_max": self._largest_ratio(),
            "clipped_share": ratio(self.clipped, self.tokens),
            "kl_to_old": ratio(self.kl_to_old, self.tokens),
            **({"kl_to_reference": ratio(self.kl_to_reference, self.tokens)} if has_reference else {}),
            "entropy": ratio(self.surprise, self.tokens),
            "lowest_p": self._low_quantile(),
        }

    def _largest_ratio(self) -> float | None:
        filled = [number for number, count in enumerate(self.high_ratio) if count]
        return math.exp(filled[-1] * _BIN_OF_RATIO) if filled else None

    def _low_quantile(self) -> float | None:
        """The 1 % quantile of p among tokens that are pushed down: it falls before a collapse shows in the reward."""
        left = _LOW_QUANTILE * sum(self.low_p)
        for number in reversed(range(len(self.low_p))):
            left -= self.low_p[number]
            if left < 0:
                return math.exp(-(number + 1) * _BIN_OF_P)
        return None


def _bin(values: Tensor) -> Tensor:
    return values.long().clamp(0, _NUM_BINS - 1)
