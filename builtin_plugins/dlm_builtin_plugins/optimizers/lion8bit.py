"""Lion with 8-bit state (bitsandbytes): steps by the sign of a moving average."""

from collections.abc import Sequence

import attrs
from torch.optim import Optimizer

from dlm_builtin_plugins.optimizers import shared_options as options
from dlm_builtin_plugins.optimizers.adamw import AdamW
from dlm_builtin_plugins.optimizers.eight_bit import build_or_fall_back
from dlm_plugins import ParameterGroup


@attrs.frozen(kw_only=True)
class Lion8bit:
    """Lion, the sign of a moving average, with 8-bit state, bitsandbytes' own; embeddings keep 32 bits.

    Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms", arXiv:2302.06675, who advise a learning rate
    three to ten times below AdamW's and a weight decay as many times above. Where bitsandbytes does not work, AdamW
    with the same learning rate and weight decay takes its place, with a warning.
    """

    lr: float = options.learning_rate(1e-4)
    betas: tuple[float, float] = options.betas(0.9, 0.99)
    weight_decay: float = options.weight_decay()

    def build(self, groups: Sequence[ParameterGroup]) -> Optimizer:
        """A ``bitsandbytes.optim.Lion8bit``, or a ``torch.optim.AdamW``."""
        plain = AdamW(lr=self.lr, weight_decay=self.weight_decay)
        arguments = {"lr": self.lr, "betas": self.betas}
        return build_or_fall_back("Lion8bit", arguments, groups, self.weight_decay, plain)
