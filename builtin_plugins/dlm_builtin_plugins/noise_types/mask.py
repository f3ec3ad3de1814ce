"""Absorbing noise: a corrupted position holds the mask token."""

from typing import ClassVar

import attrs
from torch import Tensor

from dlm_plugins import CorruptionRequest


@attrs.frozen(kw_only=True)
class MaskNoise:
    """A corrupted position holds the mask token (absorbing diffusion).

    Austin et al. 2021, "Structured Denoising Diffusion Models in Discrete State-Spaces", arXiv:2107.03006.
    """

    is_absorbing: ClassVar[bool] = True

    def corrupt(self, request: CorruptionRequest) -> Tensor:
        """Write the mask."""
        return request.input_ids.masked_fill(request.corrupted, request.mask_id)
