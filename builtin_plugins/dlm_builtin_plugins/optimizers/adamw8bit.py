"""AdamW with 8-bit state (bitsandbytes); plain AdamW where that does not work."""

from collections.abc import Sequence

import attrs
from torch.optim import Optimizer

from dlm_builtin_plugins.optimizers import shared_options as options
from dlm_builtin_plugins.optimizers.adamw import AdamW
from dlm_builtin_plugins.optimizers.eight_bit import build_or_fall_back
from dlm_plugins import ParameterGroup


@attrs.frozen(kw_only=True)
class AdamW8bit:
    """AdamW whose state takes 8 bits a number, bitsandbytes' own; embeddings keep 32 bits.

    Dettmers et al. 2022, "8-bit Optimizers via Block-wise Quantization", arXiv:2110.02861. Tensors below 4096 elements
    keep 32 bits too. Where bitsandbytes does not work, AdamW with the same options takes its place, with a warning.
    """

    lr: float = options.learning_rate(3e-4)
    betas: tuple[float, float] = options.betas(0.9, 0.95)
    eps: float = options.eps()
    weight_decay: float = options.weight_decay()

    def build(self, groups: Sequence[ParameterGroup]) -> Optimizer:
        """A ``bitsandbytes.optim.AdamW8bit``, or a ``torch.optim.AdamW``."""
        plain = AdamW(lr=self.lr, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay)
        arguments = {"lr": self.lr, "betas": self.betas, "eps": self.eps}
        return build_or_fall_back("AdamW8bit", arguments, groups, self.weight_decay, plain)
