"""Contract of a noise type: what stands at a corrupted position."""

from typing import Protocol, runtime_checkable

import attrs
from torch import Tensor

from dlm_plugins.claims import Claim
from dlm_plugins.draws import Draws

IS_ABSORBING = Claim(
    "is_absorbing",
    False,
    "A corrupted position always holds the mask token and nothing else does. Losses that recognise corruption by the "
    "mask id, the likelihood bound, and sampling from masks need it.",
)

MAY_WRITE_MASK = Claim(
    "may_write_mask",
    False,
    "A corrupted position holds the mask token or a replacement. Silence means: replacements only, unless absorbing.",
)


@attrs.frozen(kw_only=True, eq=False)
class CorruptionRequest:
    """What a noise type may look at. B rows, L positions, V ids."""

    input_ids: Tensor
    """(B, L) int64: the clean ids."""
    corrupted: Tensor
    """(B, L) bool: the positions to corrupt."""
    mask_id: int
    """Id of the mask token, in [0, V)."""
    vocabulary_size: int
    """Number V of ids the tokenizer knows; rows of the embedding beyond are padding. Replacements come from [0, V)."""
    special_ids: Tensor
    """(S,) int64: special tokens of the tokenizer, the mask among them; none may be written as a replacement."""
    draws: Draws
    """The only source of randomness, keyed by row."""


@runtime_checkable
class NoiseType(Protocol):
    """Writes the noise."""

    def corrupt(self, request: CorruptionRequest) -> Tensor:
        """Noisy ids (B, L) int64: equal to the clean ids wherever ``corrupted`` is False."""
        ...
