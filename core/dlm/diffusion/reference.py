"""A frozen model that a loss compares with (KL, DPO): what it says of the same tokens in the same noise."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import attrs
from torch import Tensor

from dlm.diffusion.forward_process import NoisedBatch
from dlm.diffusion.objective import DiffusionObjective


@attrs.frozen(kw_only=True)
class Reference:
    """A model of its own, or the trained one without its adapters."""

    objective: DiffusionObjective
    frozen: Callable[[], AbstractContextManager[None]] = nullcontext
    """Makes the objective's model the reference for as long as the context lasts."""
    fingerprint: str | None = None
    """Of the weights; None: they are part of the model that is trained."""

    def facts(self) -> dict[str, object]:
        """What must be the same when a run is resumed: no checkpoint holds the reference."""
        return {} if self.fingerprint is None else {"reference_weights": self.fingerprint}

    def log_probabilities(self, noised: NoisedBatch) -> Tensor:
        """(B, L): of the clean ids where they are scored; 0 elsewhere."""
        body = self.objective.body
        was_training = body.training
        with self.frozen():
            body.eval()
            values = self.objective.log_probabilities(noised)
            body.train(was_training)
        return values
