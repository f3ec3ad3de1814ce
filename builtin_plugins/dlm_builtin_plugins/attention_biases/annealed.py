"""Annealed attention: from causal to full over training, later positions shown more and more often (DiffuLLaMA)."""

import attrs
import torch
from torch import Tensor

from dlm_builtin_plugins.attention_biases.full import FullAttention
from dlm_plugins import AttentionBias, MaskFunction, SequenceLayout


@attrs.frozen(kw_only=True)
class AnnealedAttention:
    """From causal to full attention over training: the adaptation of an autoregressive parent in small steps.

    Gong et al. 2025, "Scaling Diffusion Language Models via Adaptation from Autoregressive Models" (DiffuLLaMA),
    arXiv:2410.17891. Each pair of a query and a later key is visible with a probability that grows linearly from 0 to
    1, drawn anew for every row and step. Sampling and evaluation see what it ends with, ``full``.
    """

    until: float = attrs.field(
        default=0.5,
        validator=[attrs.validators.gt(0), attrs.validators.le(1)],
        metadata={"help": "Share of the run's steps after which everything is visible, in (0, 1]."},
    )

    def at_end(self) -> AttentionBias:
        """Everybody sees everybody."""
        return FullAttention()

    def mask_function(self, layout: SequenceLayout) -> MaskFunction | None:
        """What is not later, and of the rest a share that grows with progress."""
        if layout.draws is None or layout.progress >= self.until:
            return None
        of_query, of_key = (layout.draws.per_position(purpose) for purpose in ("query", "key"))  # (B, L)
        # A tensor, so that flex_attention is not compiled for every number.
        share = torch.full((), layout.progress / self.until, device=of_key.device)

        def is_visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            # A sum of two uniform numbers modulo 1 is uniform, and for one query independent from key to key.
            coin = (of_query[batch, query] + of_key[batch, key]) % 1.0
            return (key <= query) | (coin < share)

        return is_visible
