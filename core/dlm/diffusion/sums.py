"""Sums behind loss, masked accuracy and cross-entropy, also by mask rate: on the device, then as numbers.

They add up over micro-batches and ranks.
"""

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from dlm.diffusion.view import BatchView

NUM_RATE_BINS = 10
"""Mask rates are counted in ten equal bins of [0, 1]."""
_NUM_SUMS = 5 + 3 * NUM_RATE_BINS


def _bins() -> list[float]:
    return [0.0] * NUM_RATE_BINS


@attrs.define
class Sums:
    """Sums over positions, in float64 on the host. They add up exactly over micro-batches, and survive JSON."""

    total: float = 0.0
    normaliser: float = 0.0
    real_tokens: float = 0.0
    eligible_tokens: float = 0.0
    rows: float = 0.0
    corrupted: list[float] = attrs.field(factory=_bins)
    """By bin of the mask rate: corrupted positions that count."""
    correct: list[float] = attrs.field(factory=_bins)
    """Those of them that were guessed right."""
    cross_entropy: list[float] = attrs.field(factory=_bins)
    """The sum of their unweighted cross-entropy."""

    @staticmethod
    def pack(view: BatchView, total: Tensor, normaliser: Tensor) -> Tensor:
        """The sums of one micro-batch as a float32 vector on its device, to be added up and given to :meth:`unpack`."""
        view.score_all()
        with torch.no_grad():
            real = view.document_id >= 0
            bins = (view.rate * NUM_RATE_BINS).long().clamp(max=NUM_RATE_BINS - 1).flatten()
            scored = view.scored.flatten().float()
            counted = (scored, scored * view.correct.flatten(), scored * view.cross_entropy.flatten())
            by_bin = torch.zeros(3, NUM_RATE_BINS, device=real.device).index_add_(1, bins, torch.stack(counted))
            scalars = (total.detach(), normaliser.detach(), real.sum(), view.eligible.sum(), real.any(dim=1).sum())
            return torch.cat((torch.stack([scalar.float() for scalar in scalars]), by_bin.flatten()))  # as the fields

    @staticmethod
    def of_loss(total: Tensor, normaliser: Tensor) -> Tensor:
        """As :meth:`pack`, where there is a loss and nothing else to count."""
        sums = torch.zeros(_NUM_SUMS, device=total.device)
        sums[0], sums[1] = total.detach(), normaliser
        return sums

    @staticmethod
    def split(vector: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
        """The numbers of a vector of :meth:`pack`, and those of an objective's own that stand behind them."""
        return vector[:_NUM_SUMS], vector[_NUM_SUMS:]

    @staticmethod
    def normaliser_in(vector: Tensor) -> Tensor:
        """The normaliser in a vector of :meth:`pack`, a scalar on its device."""
        return vector[1]

    @classmethod
    def unpack(cls, vector: Sequence[float]) -> "Sums":
        """The sums from the numbers of a vector of :meth:`pack`."""
        num_scalars = len(vector) - 3 * NUM_RATE_BINS
        total, normaliser, real_tokens, eligible_tokens, rows = vector[:num_scalars]
        starts = range(num_scalars, len(vector), NUM_RATE_BINS)
        by_bin = (list(vector[start : start + NUM_RATE_BINS]) for start in starts)
        return cls(total, normaliser, real_tokens, eligible_tokens, rows, *by_bin)

    def add(self, other: "Sums") -> None:
        """Add another set of sums to this one."""
        for field in attrs.fields(Sums):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            both = [a + b for a, b in zip(mine, theirs, strict=True)] if isinstance(mine, list) else mine + theirs
            setattr(self, field.name, both)

    @property
    def loss(self) -> float:
        """The loss: total / normaliser; 0 where nothing counts."""
        return self.total / self.normaliser if self.normaliser else 0.0

    def quality(self) -> dict[str, object]:
        """Unweighted cross-entropy in nats and accuracy at masked positions, over all and by bin of the mask rate.

        None where nothing was masked; ``masked_tokens_by_rate`` says how many tokens each bin's figures stand on.
        """
        return {
            "masked_ce": ratio(sum(self.cross_entropy), sum(self.corrupted)),
            "masked_accuracy": ratio(sum(self.correct), sum(self.corrupted)),
            "masked_ce_by_rate": _ratios(self.cross_entropy, self.corrupted),
            "masked_accuracy_by_rate": _ratios(self.correct, self.corrupted),
            "masked_tokens_by_rate": [round(count) for count in self.corrupted],
        }


def means(names: Sequence[str], values: Sequence[float], sums: Sums) -> dict[str, float | None]:
    """Further sums, by name, over what the normaliser counts."""
    return {name: ratio(value, sums.normaliser) for name, value in zip(names, values, strict=False)}


def ratio(numerator: float, denominator: float) -> float | None:
    """A mean; None of nothing."""
    return numerator / denominator if denominator else None


def _ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float | None]:
    return [ratio(above, below) for above, below in zip(numerators, denominators, strict=True)]
