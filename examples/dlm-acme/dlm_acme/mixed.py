"""Mixed noise."""

import attrs
import torch
from torch import Tensor

from dlm_plugins import CorruptionRequest


@attrs.frozen(kw_only=True)
class MixedNoise:
    """A corrupted position holds the mask, or now and then a random token, so that the model learns to doubt.

    The mixture of BERT (Devlin et al. 2019, arXiv:1810.04805) as diffusion noise, studied by von Rütte et al. 2025,
    "Generalized Interpolating Discrete Diffusion", arXiv:2503.04482.
    """

    mask_share: float = attrs.field(
        default=0.9,
        validator=[attrs.validators.ge(0), attrs.validators.le(1)],
        metadata={"help": "Share of corrupted positions that hold the mask, in [0, 1]; the others hold random tokens."},
    )

    @property
    def is_absorbing(self) -> bool:
        """Nothing but masks."""
        return self.mask_share == 1

    @property
    def may_write_mask(self) -> bool:
        """Some masks."""
        return self.mask_share > 0

    def corrupt(self, request: CorruptionRequest) -> Tensor:
        """Noisy ids (B, L); random tokens are uniform over those that are not special."""
        size = request.vocabulary_size
        allowed = torch.ones(size + 1, dtype=torch.bool, device=request.input_ids.device)
        allowed[request.special_ids.clamp(max=size)] = False
        allowed[size] = False  # the extra place took special ids beyond the vocabulary
        by_rank = torch.argsort(~allowed, stable=True)  # allowed ids first
        # 24 bits a draw: for 150,000 ids, the probabilities of two of them differ by 1 % at most.
        rank = (request.draws.per_position("token") * allowed.sum()).long()
        is_mask = request.draws.per_position("is_mask") < self.mask_share
        noise = torch.where(is_mask, request.mask_id, by_rank[rank])
        return torch.where(request.corrupted, noise, request.input_ids)
