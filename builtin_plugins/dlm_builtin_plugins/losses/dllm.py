"""MMaDA's loss (dLLM-RL): cross-entropy times min(1/p, reweight cap) wherever the input holds the mask token."""

from collections.abc import Iterable

import attrs

from dlm_builtin_plugins.losses.guidelines import average
from dlm_plugins import LossOutput, LossView, RunComponents
from dlm_plugins.noise_type import IS_ABSORBING


@attrs.frozen(kw_only=True)
class DllmLoss:
    """Cross-entropy wherever the model saw the mask token, times 1/p (the text loss of MMaDA, used in dLLM-RL).

    Yang et al. 2025, "MMaDA", arXiv:2505.15809. It differs from ``guidelines`` where a text holds the mask token
    already: such a position counts as corrupted if it is eligible.
    """

    def __call__(self, view: LossView) -> LossOutput:
        """Score the eligible positions that hold the mask token with weight min(1/p, cap)."""
        weight, normaliser = average(view, view.weight)
        found = (view.noisy_ids == view.mask_id) & view.eligible
        # Where the masking hides more than is scored, what it hides as context stays context.
        where = found & (view.scored | ~view.corrupted)
        return LossOutput(view.weighted_cross_entropy(where, weight), normaliser)

    def incompatibilities(self, run: RunComponents) -> Iterable[str]:
        """Noise that writes anything but the mask."""
        if not IS_ABSORBING.of(run.noise_type):
            yield (
                f"dllm finds corrupted positions by the mask token, but noise type {run.names['noise_type']} writes "
                "other tokens; use noise type mask, or loss guidelines"
            )
