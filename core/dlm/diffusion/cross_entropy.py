"""Weighted cross-entropy and its gradient at scored positions, and the LM head (vocabulary projection) in chunks.

(N, V) logits never exist at once. N scored positions, H hidden, V vocabulary. Products run in the compute dtype
(autocast's, or the hidden states' own), everything after them in float32, or float64 for a float64 model.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import attrs
import torch
from torch import Tensor

CHUNK_ELEMENTS = 1 << 25
"""Most logits that exist at once: 128 MiB in float32. On CUDA there may be more, as memory is free."""
_LARGEST_CHUNK = 1 << 29
_BYTES_OF_A_LOGIT = 12
"""The product in 16 bits, the logit in 32, its gradient in 16, and some more for what the allocator wastes."""
_SHARE_OF_FREE_MEMORY = 4


def most_logits(free_bytes: int | None) -> int:
    """How many logits may exist at once; None: it is not to depend on what is free.

    Each chunk adds to the gradient of the whole (V, H) weight, so that few large ones are faster.
    """
    if free_bytes is None:
        return CHUNK_ELEMENTS
    affordable = free_bytes // (_SHARE_OF_FREE_MEMORY * _BYTES_OF_A_LOGIT)
    return max(CHUNK_ELEMENTS, min(affordable, _LARGEST_CHUNK))


def _free_bytes(device: torch.device) -> int | None:
    """What can be allocated on CUDA. None elsewhere, and where sums must not depend on it (``deterministic``)."""
    if device.type != "cuda" or torch.are_deterministic_algorithms_enabled():
        return None
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


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
        num_logits = most_logits(_free_bytes(hidden_NH.device))
        self._chunk_size = min(max(1, num_logits // len(weight_VH)), len(hidden_NH))
        # The same memory for every chunk: on the CPU each allocation of that size costs as much as filling it.
        self._products_nV = hidden_NH.new_empty(self._chunk_size, len(weight_VH), dtype=self.dtype)

    def chunks(self) -> Iterator[slice]:
        """Slices of the N positions, each with at most as many logits as :func:`most_logits` says."""
        num_positions = len(self._hidden_NH)
        starts = range(0, num_positions, max(1, self._chunk_size))
        return (slice(start, min(start + self._chunk_size, num_positions)) for start in starts)

    def logits(self, chunk: slice) -> Tensor:
        """Logits of a chunk, (n, V), in the exact dtype; the caller may overwrite them, as the next chunk does."""
        hidden = self._hidden_NH[chunk].to(self.dtype)
        products = self._products_nV[: len(hidden)]
        if self._bias_V is None:
            torch.mm(hidden, self._weight_VH.T, out=products)
        else:
            torch.addmm(self._bias_V, hidden, self._weight_VH.T, out=products)
        return products.to(self.exact)

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
        compiles: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the scalar sum, the unsmoothed cross-entropy (N,) and whether the target is the argmax (N,)."""
        judge = _compiled_judge() if compiles else _judge
        head = ChunkedHead(hidden_NH, weight_VH, bias_V, ctx.needs_input_grad)
        cross_entropy_N = torch.empty_like(targets_N, dtype=head.exact)
        smoothed_N = cross_entropy_N if smoothing is None else torch.empty_like(cross_entropy_N)
        correct_N = torch.empty_like(targets_N, dtype=torch.bool)
        with torch.autocast(hidden_NH.device.type, enabled=False):
            for chunk in head.chunks():
                target, scale = targets_N[chunk, None], loss_weight_N[chunk, None].to(head.exact)
                judged = judge(head.logits(chunk), target, scale, smoothing, head.wants_gradient)
                cross_entropy_N[chunk], smoothed_N[chunk], correct_N[chunk], gradient = judged
                if gradient is not None:
                    head.add_gradient(chunk, gradient)
                del judged, gradient  # before the next chunk takes as much
        gradients = head.gradients()
        ctx.present = [gradient is not None for gradient in gradients]
        ctx.save_for_backward(*(gradient for gradient in gradients if gradient is not None))
        ctx.mark_non_differentiable(cross_entropy_N, correct_N)
        return (smoothed_N * loss_weight_N).sum(), cross_entropy_N, correct_N

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """Scale what the forward pass computed, in place: autograd refuses a second backward pass through it."""
        saved = iter(ctx.saved_tensors)
        gradients = (next(saved).mul_(grad_total) if present else None for present in ctx.present)
        return (*gradients, None, None, None, None)


def _judge(
    logits: Tensor, target: Tensor, scale: Tensor, smoothing: Smoothing | None, wants_gradient: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """What follows from the logits of a chunk, elementwise or along a row.

    Args:
        logits: (n, V), which is overwritten.
        target: (n, 1) int64.
        scale: (n, 1): the weight of each position.
        smoothing: of the labels.
        wants_gradient: whether the gradient is needed.

    Returns:
        Cross-entropy without and with smoothing, whether the target is the argmax, (n,) each; the weighted gradient
        with respect to the logits, (n, V).
    """
    (peak, likeliest), at_target = logits.max(dim=1, keepdim=True), logits.gather(1, target)
    mean = None if smoothing is None else logits @ smoothing.share.to(logits.dtype)
    exponentials = logits.sub_(peak).exp_()
    total = exponentials.sum(dim=1, keepdim=True)
    log_total = peak + total.log()
    cross_entropy = (log_total - at_target)[:, 0]
    smoothed = cross_entropy
    if smoothing is not None and mean is not None:
        smoothed = torch.lerp(cross_entropy, log_total[:, 0] - mean, smoothing.amount)
    correct = (likeliest == target)[:, 0]
    if not wants_gradient:
        return cross_entropy, smoothed, correct, None
    softmax = exponentials.mul_(scale / total)  # already weighted
    return cross_entropy, smoothed, correct, _minus_labels(softmax, target, scale, smoothing)


@cache
def _compiled_judge() -> Callable[..., tuple[Tensor, Tensor, Tensor, Tensor | None]]:
    """The same in few passes over the logits."""
    return torch.compile(_judge)


def _minus_labels(softmax_nV: Tensor, target: Tensor, scale: Tensor, smoothing: Smoothing | None) -> Tensor:
    """Subtract the (smoothed) label distribution, weighted, in place: the gradient with respect to the logits."""
    if smoothing is None:
        return softmax_nV.scatter_add_(1, target, -scale)
    softmax_nV.scatter_add_(1, target, scale * (smoothing.amount - 1.0))
    return softmax_nV.addcmul_(scale, smoothing.share.to(scale.dtype)[None, :], value=-smoothing.amount)


@attrs.frozen(kw_only=True, eq=False)
class SamplingLaw:
    """The law that tokens are drawn by: softmax(logits / temperature), without some ids."""

    temperature: float
    """Greater than 0."""
    excluded: Tensor
    """(E,) int64: ids that are never written, the mask among them."""

    def apply_(self, logits_nV: Tensor) -> Tensor:
        """The logits of the law, in place."""
        return logits_nV.div_(self.temperature).index_fill_(1, self.excluded.to(logits_nV.device), -torch.inf)


class LogProbabilities(torch.autograd.Function):
    """Log-probability of the target at N positions, differentiable; backward recomputes the logits chunk by chunk."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        law: SamplingLaw | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the log-probabilities (N,), under a law if there is one, and whether the target is the argmax (N,)."""
        head = ChunkedHead(hidden_NH, weight_VH, bias_V, (False, False, False))
        log_probability_N = torch.empty_like(targets_N, dtype=head.exact)
        correct_N = torch.empty_like(targets_N, dtype=torch.bool)
        with torch.autocast(hidden_NH.device.type, enabled=False):
            for chunk in head.chunks():
                logits = _under(law, head.logits(chunk))
                at_target = logits.gather(1, targets_N[chunk, None])
                log_probability_N[chunk] = at_target[:, 0] - logits.logsumexp(dim=1)
                correct_N[chunk] = logits.argmax(dim=1) == targets_N[chunk]
        ctx.save_for_backward(hidden_NH, weight_VH, bias_V, targets_N)
        ctx.compute_dtype, ctx.law = head.dtype, law
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
                grad_logits = _under(ctx.law, head.logits(chunk)).softmax(dim=1).mul_(-grad)
                grad_logits.scatter_add_(1, targets_N[chunk, None], grad)
                head.add_gradient(chunk, grad_logits if ctx.law is None else grad_logits.div_(ctx.law.temperature))
        return (*head.gradients(), None, None)


def _under(law: SamplingLaw | None, logits_nV: Tensor) -> Tensor:
    return logits_nV if law is None else law.apply_(logits_nV)
