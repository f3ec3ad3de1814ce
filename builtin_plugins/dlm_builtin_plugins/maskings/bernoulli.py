"""Masking by independent coins: every eligible position is corrupted with probability p (LLaDA, MDLM)."""

from typing import ClassVar

import attrs

from dlm_plugins import MaskingRequest, Selection


@attrs.frozen(kw_only=True)
class BernoulliMasking:
    """Every eligible position is corrupted with probability p, independently of the others (LLaDA, MDLM).

    Nie et al. 2025, arXiv:2502.09992; Sahoo et al. 2024, arXiv:2406.07524.
    """

    is_independent: ClassVar[bool] = True

    def select(self, request: MaskingRequest) -> Selection:
        """Toss one coin a position."""
        corrupted = request.eligible & (request.draws.per_position("coin") < request.p)
        return Selection(corrupted=corrupted, p_mask=request.p.masked_fill(~request.eligible, 0.0))
