"""Full bidirectional attention: everybody sees everybody, as in LLaDA."""

import attrs

from dlm_plugins import MaskFunction, SequenceLayout


@attrs.frozen(kw_only=True)
class FullAttention:
    """Everybody sees everybody (LLaDA).

    Nie et al. 2025, arXiv:2502.09992. The prompt sees the answer too, so that nothing can be cached exactly.
    """

    def mask_function(self, layout: SequenceLayout) -> MaskFunction | None:
        """No restriction."""
        return None
