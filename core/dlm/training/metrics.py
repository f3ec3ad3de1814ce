"""Metrics from sums: of one step, of a logging window, of an evaluation."""

from collections.abc import Sequence

import attrs

from dlm.diffusion.statistics import NUM_RATE_BINS


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
    """By bin of the mask rate."""
    correct: list[float] = attrs.field(factory=_bins)
    cross_entropy: list[float] = attrs.field(factory=_bins)

    @classmethod
    def of(cls, vector: Sequence[float]) -> "Sums":
        """From the vector of :mod:`dlm.diffusion.statistics`."""
        total, normaliser, real_tokens, eligible_tokens, rows, *bins = vector
        corrupted, correct, cross_entropy = (
            bins[start : start + NUM_RATE_BINS] for start in range(0, 3 * NUM_RATE_BINS, NUM_RATE_BINS)
        )
        return cls(total, normaliser, real_tokens, eligible_tokens, rows, corrupted, correct, cross_entropy)

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
            "masked_ce": _ratio(sum(self.cross_entropy), sum(self.corrupted)),
            "masked_accuracy": _ratio(sum(self.correct), sum(self.corrupted)),
            "masked_ce_by_rate": _ratios(self.cross_entropy, self.corrupted),
            "masked_accuracy_by_rate": _ratios(self.correct, self.corrupted),
            "masked_tokens_by_rate": [round(count) for count in self.corrupted],
        }

    def accuracy_below(self, rate: float) -> float | None:
        """Masked accuracy over the bins of mask rates below ``rate``, a multiple of the bin width."""
        num_bins = round(rate * NUM_RATE_BINS)
        return _ratio(sum(self.correct[:num_bins]), sum(self.corrupted[:num_bins]))


def _ratio(numerator: float, denominator: float) -> float | None:
    return numerator / denominator if denominator else None


def _ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float | None]:
    return [_ratio(above, below) for above, below in zip(numerators, denominators, strict=True)]


@attrs.define
class Window:
    """What happened since the last line of the log. Part of the trainer's state, so that a resumed log is the same."""

    steps: int = 0
    loss: float = 0.0
    """Sum of the losses of the steps."""
    grad_norm: float = 0.0
    """Sum of the gradient norms."""
    sums: Sums = attrs.field(factory=Sums)

    def add(self, sums: Sums, grad_norm: float) -> None:
        """Add a step that was taken."""
        self.steps += 1
        self.loss += sums.loss
        self.grad_norm += grad_norm
        self.sums.add(sums)

    def metrics(self) -> dict[str, object]:
        """Means over the window; None where no step was taken."""
        return {
            "loss": _ratio(self.loss, self.steps),
            **self.sums.quality(),
            "grad_norm": _ratio(self.grad_norm, self.steps),
        }
