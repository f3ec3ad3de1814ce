"""AdamW: Adam with decoupled weight decay, torch's own."""

from collections.abc import Sequence

import attrs
import torch
from torch.optim import Optimizer

from dlm_builtin_plugins.optimizers import shared_options as options
from dlm_builtin_plugins.optimizers.shared_options import torch_groups
from dlm_plugins import ParameterGroup


@attrs.frozen(kw_only=True)
class AdamW:
    """Adam with decoupled weight decay, torch's own.

    Loshchilov and Hutter 2019, arXiv:1711.05101.
    """

    lr: float = options.learning_rate(3e-4)
    betas: tuple[float, float] = options.betas(0.9, 0.95)
    eps: float = options.eps()
    weight_decay: float = options.weight_decay()

    def build(self, groups: Sequence[ParameterGroup]) -> Optimizer:
        """A ``torch.optim.AdamW``, in one kernel on CUDA."""
        is_on_cuda = all(parameter.is_cuda for group in groups for parameter in group.parameters.values())
        return torch.optim.AdamW(
            torch_groups(groups, self.weight_decay),
            lr=self.lr,
            betas=self.betas,
            eps=self.eps,
            fused=True if is_on_cuda else None,
        )
