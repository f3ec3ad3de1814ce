"""Mean loss, gradient norm and masked accuracy by mask rate between two lines of ``metrics.jsonl``."""

import attrs

from dlm.diffusion.sums import Sums, ratio


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
            "loss": ratio(self.loss, self.steps),
            **self.sums.quality(),
            "grad_norm": ratio(self.grad_norm, self.steps),
        }
