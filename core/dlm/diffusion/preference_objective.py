"""The objective of learning from preferences: as of training, beside the log-probabilities of a frozen reference."""

from contextlib import AbstractContextManager
from typing import Protocol

import attrs
import torch
from torch import Tensor

from dlm.diffusion.forward_process import NoisedBatch
from dlm.diffusion.objective import DiffusionObjective
from dlm.diffusion.view import BatchView


class Switch(Protocol):
    """Makes a model the reference for as long as a context lasts."""

    def __call__(self) -> AbstractContextManager[None]:
        """The context."""
        ...


@attrs.frozen(kw_only=True)
class Reference:
    """A frozen model: one of its own, or the trained one without its adapters."""

    objective: DiffusionObjective
    frozen: Switch

    @torch.no_grad()
    def log_probabilities(self, noised: NoisedBatch) -> Tensor:
        """(B, L): of the clean ids where they are scored, in the same noise; 0 elsewhere."""
        was_training = self.objective.body.training
        with self.frozen():
            self.objective.body.eval()
            values = self.objective.view_of(noised).log_probabilities(noised.scored)
            self.objective.body.train(was_training)
        return values.new_zeros(noised.scored.shape).masked_scatter_(noised.scored, values)


class PreferenceObjective(DiffusionObjective):
    """Loss of pairs of answers, in whose view the reference has its say."""

    reference: Reference | None = None
    """Set where the objective is put together; no part of what is trained."""

    def view_of(self, noised: NoisedBatch) -> BatchView:
        """As :meth:`DiffusionObjective.view_of`."""
        view = super().view_of(noised)
        if self.reference is not None:
            view.reference_log_probability = self.reference.log_probabilities(noised)
        return view
