"""Weighted cross-entropy at scored positions: value and gradient in one pass over chunks of logits."""

from typing import Any

import attrs
import torch
from torch import Tensor

from dlm.diffusion.chunked_head import ChunkedHead


@attrs.frozen(kw_only=True, eq=False)
class Smoothing:
    """Label smoothing: mass ``amount`` in [0, 1) spread evenly over the real vocabulary ids."""

    amount: float
    share: Tensor
    """(V,) float: each id's share of the mass, summing to 1; 0 on padded rows of the embedding and on the mask."""


class WeightedCrossEntropy(torch.autograd.Function):
    """Sum of weight x cross-entropy over N positions.

    The gradient of a weighted sum of cross-entropies is known once the softmax is: forward computes it while the
    chunk's logits are at hand, backward only scales it.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        loss_weight_N: Tensor,
        smoothing: Smoothing | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the scalar sum, the unsmoothed cross-entropy (N,) and whether the target is the argmax (N,)."""
        head = ChunkedHead(hidden_NH, weight_VH, bias_V, ctx.needs_input_grad)
        cross_entropy_N = torch.empty_like(targets_N, dtype=head.exact)
        smoothed_N = cross_entropy_N if smoothing is None else torch.empty_like(cross_entropy_N)
        correct_N = torch.empty_like(targets_N, dtype=torch.bool)
        with torch.autocast(hidden_NH.device.type, enabled=False):
            for chunk in head.chunks():
                target, scale = targets_N[chunk, None], loss_weight_N[chunk, None].to(head.exact)
                logits = head.logits(chunk)
                (peak, likeliest), at_target = logits.max(dim=1, keepdim=True), logits.gather(1, target)
                mean = None if smoothing is None else logits @ smoothing.share.to(head.exact)
                exponentials = logits.sub_(peak).exp_()
                total = exponentials.sum(dim=1, keepdim=True)
                log_total = peak + total.log()
                cross_entropy_N[chunk] = (log_total - at_target)[:, 0]
                correct_N[chunk] = (likeliest == target)[:, 0]
                if smoothing is not None and mean is not None:
                    smoothed_N[chunk] = torch.lerp(cross_entropy_N[chunk], log_total[:, 0] - mean, smoothing.amount)
                if head.wants_gradient:
                    softmax = exponentials.mul_(scale / total)  # already weighted
                    head.add_gradient(chunk, _minus_labels(softmax, target, scale, smoothing))
        gradients = head.gradients()
        ctx.present = [gradient is not None for gradient in gradients]
        ctx.save_for_backward(*(gradient for gradient in gradients if gradient is not None))
        ctx.mark_non_differentiable(cross_entropy_N, correct_N)
        return (smoothed_N * loss_weight_N).sum(), cross_entropy_N, correct_N

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """Scale what the forward pass computed."""
        saved = iter(ctx.saved_tensors)
        gradients = (next(saved) * grad_total if present else None for present in ctx.present)
        return (*gradients, None, None, None)


def _minus_labels(softmax_nV: Tensor, target: Tensor, scale: Tensor, smoothing: Smoothing | None) -> Tensor:
    """Subtract the (smoothed) label distribution, weighted, in place: the gradient with respect to the logits."""
    if smoothing is None:
        return softmax_nV.scatter_add_(1, target, -scale)
    softmax_nV.scatter_add_(1, target, scale * (smoothing.amount - 1.0))
    return softmax_nV.addcmul_(scale, smoothing.share.to(scale.dtype)[None, :], value=-smoothing.amount)
