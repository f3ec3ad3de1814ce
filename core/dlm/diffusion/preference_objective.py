"""The objective of learning from preferences: as of training, beside the log-probabilities of a frozen reference."""

import attrs
from torch import Tensor

from dlm.diffusion.forward_process import NoisedBatch, PolicyFigures
from dlm.diffusion.objective import DiffusionObjective


class PreferenceObjective(DiffusionObjective):
    """Loss of pairs of answers, in whose view the reference has its say."""

    def forward(self, noised: NoisedBatch) -> tuple[Tensor, Tensor]:
        """As :meth:`DiffusionObjective.forward`."""
        if self.reference is not None:
            said = PolicyFigures(reference_log_probability=self.reference.log_probabilities(noised))
            noised = attrs.evolve(noised, policy=said)
        return super().forward(noised)
