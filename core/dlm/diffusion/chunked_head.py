"""The LM head (vocabulary projection) in chunks of positions: (N, V) logits never exist at once.

N scored positions, H hidden, V vocabulary. Products run in the compute dtype (autocast's, or the hidden states' own),
everything after them in float32, or float64 for a float64 model.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

CHUNK_ELEMENTS = 1 << 25
"""Most logits that exist at once: 128 MiB in float32."""


class ChunkedHead:
    """A linear head that is applied to one chunk of positions at a time, and collects its own gradients."""

    def __init__(self, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, wanted: Sequence[bool]) -> None:
        device = hidden_NH.device.type
        self.dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_NH.dtype
        self.exact = torch.promote_types(self.dtype, torch.float32)
        self._hidden_NH = hidden_NH
        self._weight_VH = weight_VH.to(self.dtype)
        self._bias_V = None if bias_V is None else bias_V.to(self.dtype)
        self._original = (hidden_NH, weight_VH, bias_V)
        self._grad_hidden = torch.empty_like(hidden_NH) if wanted[0] else None
        self._grad_weight = torch.zeros_like(weight_VH, dtype=self.exact) if wanted[1] else None
        self._grad_bias = torch.zeros_like(bias_V, dtype=self.exact) if bias_V is not None and wanted[2] else None
        self.wants_gradient = any(wanted[:3])

    def chunks(self) -> Iterator[slice]:
        """Slices of the N positions, each with at most ``CHUNK_ELEMENTS`` logits."""
        num_positions, size = len(self._hidden_NH), max(1, CHUNK_ELEMENTS // len(self._weight_VH))
        return (slice(start, min(start + size, num_positions)) for start in range(0, num_positions, size))

    def logits(self, chunk: slice) -> Tensor:
        """Logits of a chunk, (n, V), in the exact dtype; the caller may overwrite them."""
        hidden = self._hidden_NH[chunk].to(self.dtype)
        return torch.nn.functional.linear(hidden, self._weight_VH, self._bias_V).to(self.exact)

    def add_gradient(self, chunk: slice, grad_logits_nV: Tensor) -> None:
        """Take in the gradient with respect to a chunk's logits."""
        if self._grad_bias is not None:
            self._grad_bias += grad_logits_nV.sum(dim=0)
        grad_logits_nV = grad_logits_nV.to(self.dtype)
        if self._grad_hidden is not None:
            self._grad_hidden[chunk] = grad_logits_nV @ self._weight_VH
        if self._grad_weight is not None:
            hidden = self._hidden_NH[chunk].to(self.dtype)
            if self.dtype == self.exact:
                self._grad_weight.addmm_(grad_logits_nV.T, hidden)
            else:
                self._grad_weight += grad_logits_nV.T @ hidden

    def gradients(self) -> list[Tensor | None]:
        """Gradients of hidden states, weight and bias, in their dtypes; None where not wanted."""
        collected = (self._grad_hidden, self._grad_weight, self._grad_bias)
        return [
            None if gradient is None or like is None else gradient.to(like.dtype)
            for gradient, like in zip(collected, self._original, strict=True)
        ]
