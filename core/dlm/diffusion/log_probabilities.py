"""Differentiable log-probabilities of the labels, for losses that are not linear in cross-entropy (focal, RL)."""

from typing import Any

import torch
from torch import Tensor

from dlm.diffusion.chunked_head import ChunkedHead


class LogProbabilities(torch.autograd.Function):
    """Log-probability of the target at N positions, differentiable; backward recomputes the logits chunk by chunk."""

    @staticmethod
    def forward(
        ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, targets_N: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the log-probabilities (N,) and whether the target is the argmax (N,)."""
        head = ChunkedHead(hidden_NH, weight_VH, bias_V, (False, False, False))
        log_probability_N = torch.empty_like(targets_N, dtype=head.exact)
        correct_N = torch.empty_like(targets_N, dtype=torch.bool)
        with torch.autocast(hidden_NH.device.type, enabled=False):
            for chunk in head.chunks():
                logits = head.logits(chunk)
                at_target = logits.gather(1, targets_N[chunk, None])
                log_probability_N[chunk] = at_target[:, 0] - logits.logsumexp(dim=1)
                correct_N[chunk] = logits.argmax(dim=1) == targets_N[chunk]
        ctx.save_for_backward(hidden_NH, weight_VH, bias_V, targets_N)
        ctx.compute_dtype = head.dtype
        ctx.mark_non_differentiable(correct_N)
        return log_probability_N, correct_N

    @staticmethod
    def backward(ctx: Any, grad_N: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """Recompute each chunk's softmax, in the dtype of the forward pass."""
        hidden_NH, weight_VH, bias_V, targets_N = ctx.saved_tensors
        device = hidden_NH.device.type
        with torch.autocast(device, dtype=ctx.compute_dtype, enabled=ctx.compute_dtype != hidden_NH.dtype):
            head = ChunkedHead(hidden_NH, weight_VH, bias_V, ctx.needs_input_grad)
        with torch.autocast(device, enabled=False):
            for chunk in head.chunks():
                grad = grad_N[chunk, None].to(head.exact)
                grad_logits = head.logits(chunk).softmax(dim=1).mul_(-grad)
                head.add_gradient(chunk, grad_logits.scatter_add_(1, targets_N[chunk, None], grad))
        return (*head.gradients(), None)
