"""Contract of a remasking rule: which predictions are kept at a denoising step, which go back to mask."""

from typing import Protocol, runtime_checkable

import attrs
from torch import Tensor

from dlm_plugins.claims import Claim
from dlm_plugins.draws import Draws

RESPECTS_QUOTA = Claim(
    "respects_quota",
    True,
    "Each row commits exactly min(quota, number of masked positions) positions a step and takes nothing back.",
)
NEEDS_COMMITTED_PREDICTIONS = Claim(
    "needs_committed_predictions",
    False,
    "Candidates and confidence are wanted at committed positions of the block too, not only at masked ones.",
)

TAKES_BACK = Claim(
    "takes_back",
    False,
    "May take back what it committed, so that a position is written more than once.",
)
FOLLOWS_PREDICTIONS = Claim(
    "follows_predictions",
    True,
    "Which positions are kept depends on what the model predicts. False: the order has nothing to do with the model, "
    "so that the probabilities of what was written add up to that of the whole trace.",
)


class DecodingState(Protocol):
    """The active block at one denoising step: B rows, K positions.

    Unless ``needs_committed_predictions`` is claimed, candidates, confidence, log_probability, entropy and margin are
    meaningful at masked positions only (-inf confidence elsewhere).
    """

    @property
    def candidates(self) -> Tensor:
        """(B, K) int64: the id proposed at each position."""
        ...

    @property
    def confidence(self) -> Tensor:
        """(B, K) float32 or wider, in [0, 1]: untempered probability of the candidate; -inf where not predicted."""
        ...

    @property
    def masked(self) -> Tensor:
        """(B, K) bool: positions that still hold the mask and are to be filled."""
        ...

    @property
    def committed_ids(self) -> Tensor:
        """(B, K) int64: what stands at each position now (the mask id where masked)."""
        ...

    @property
    def committed_confidence(self) -> Tensor:
        """(B, K) float32 or wider, in [0, 1]: confidence a position had when it was committed; 0 where masked."""
        ...

    @property
    def committed_step(self) -> Tensor:
        """(B, K) int64: step of this block at which a position was committed; -1 where masked or given."""
        ...

    @property
    def quota(self) -> Tensor:
        """(B,) int64, at least 0: suggested number of commitments at this step, so that the last one ends the block."""
        ...

    @property
    def step(self) -> int:
        """Step within the block, from 0."""
        ...

    @property
    def num_steps(self) -> int:
        """Number of steps planned for the block, at least 1."""
        ...

    @property
    def draws(self) -> Draws:
        """The only source of randomness, keyed by row, block, step and position."""
        ...

    @property
    def log_probability(self) -> Tensor:
        """(B, K) float32 or wider, at most 0: log of ``confidence``, exact where that underflows or rounds to 1."""
        ...

    @property
    def entropy(self) -> Tensor:
        """(B, K) float32 or wider, at least 0, in nats: entropy of the prediction. Computed when asked."""
        ...

    @property
    def margin(self) -> Tensor:
        """(B, K) float32 or wider, in [0, 1]: probability of the first minus the second id. Computed when asked."""
        ...


@attrs.frozen(kw_only=True, eq=False)
class Decision:
    """What happens to the block. A position may not be in both sets."""

    commit: Tensor
    """(B, K) bool, a subset of ``masked``: the candidate is written."""
    remask: Tensor | None = None
    """(B, K) bool, a subset of the positions generated so far: the mask is written back. None: nothing goes back."""


@runtime_checkable
class Remasker(Protocol):
    """Decides step by step. On the last step the core commits whatever is masked and ignores ``remask``."""

    def decide(self, state: DecodingState) -> Decision:
        """Choose what to keep and what to take back. A row's result depends on that row alone."""
        ...
