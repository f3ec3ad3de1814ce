"""Contract of an advantage: from the rewards of the answers to a prompt to how much better than expected each is."""

from typing import Protocol, runtime_checkable

import attrs
from torch import Tensor

from dlm_plugins.claims import Claim

NEEDS_VALUES = Claim(
    "needs_values",
    False,
    "Reads what a value model (rl.value) expects at each position; without one the run is refused.",
)
GAMMA = Claim(
    "gamma",
    1.0,
    "What the reward is worth a denoising step earlier, as a share: what the value model learns to expect.",
)


@attrs.frozen(kw_only=True, eq=False)
class AdvantageRequest:
    """P prompts with G answers each: B = P * G rows of L positions, the answers to a prompt side by side."""

    rewards: Tensor
    """(P, G) float32, finite: the weighted sum of the rewards of each answer."""
    values: Tensor | None = None
    """(B, L) float32: the reward, discounted as ``gamma`` claims, that a value model expected when the token at this
    position was about to be written. None where there is no such model."""
    committed_step: Tensor | None = None
    """(B, L) int64: the denoising step at which each position was written; -1 in the prompt and behind the end."""


@runtime_checkable
class Advantage(Protocol):
    """Compares rewards with what was to be expected."""

    def advantage(self, request: AdvantageRequest) -> Tensor:
        """(B,) float32, finite: a number for each answer; or (B, L), for each position, 0 where nothing was written.

        Pure. A prompt's advantages depend on its own answers alone, in whatever order they stand. Without values, equal
        rewards give zeros: there is nothing to learn from them.
        """
        ...
