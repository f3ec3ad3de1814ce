"""From hidden states to candidate tokens and confidence: temperature, Gumbel noise, suppressed tokens, margin.

N positions, H hidden, V vocabulary. Logits are taken to float32 (float64 for a float64 model) before anything is made
of them.
"""

from collections.abc import Iterator

import attrs
import torch
from torch import Tensor, nn

from dlm.sampling.sampling_draws import RowSeeds, Seed, add_gumbel_

_CHUNK_ELEMENTS = 1 << 24
"""Most logits that exist at once: 64 MiB in float32."""
_FEW_ROWS = 12


@attrs.frozen(kw_only=True, eq=False)
class Tokens:
    """Which ids may be written."""

    mask_id: int
    suppressed: Tensor
    """(S,) int64: ids that get probability zero."""


@attrs.frozen(kw_only=True, eq=False)
class Keys:
    """Keys of the noise at N positions, (N,) int64 each."""

    row: Tensor
    block: Tensor
    position: Tensor


@attrs.define(kw_only=True, eq=False)
class Predictions:
    """What the model proposes at N positions."""

    candidates: Tensor
    """(N,) int64; never the mask."""
    log_probability: Tensor
    """(N,) float32 or wider: of the candidate, without temperature."""
    hidden: Tensor
    head: nn.Linear
    tokens: Tokens
    leader: Tensor | None
    """(N,) int64: whose logits hold at each position (:class:`dlm.sampling.blind_positions.Ties`); None: its own."""

    def entropy(self) -> Tensor:
        """(N,) float32 or wider, in nats. Costs one more pass of the head."""
        parts = [torch.special.entr(logits.softmax(dim=-1)).sum(dim=-1) for _, logits in self._chunks()]
        return torch.cat(parts) if parts else torch.zeros_like(self.log_probability)

    def margin(self) -> Tensor:
        """(N,) float32 or wider, in [0, 1]: first probability minus second. Costs one more pass of the head."""
        parts = []
        for _, logits in self._chunks():
            first, second = logits.softmax(dim=-1).topk(2, dim=-1).values.unbind(dim=-1)
            parts.append(first - second)
        return torch.cat(parts) if parts else torch.zeros_like(self.log_probability)

    def _chunks(self) -> Iterator[tuple[slice, Tensor]]:
        return _chunks(self.hidden, self.head, self.tokens, self.leader)


def predict(
    hidden: Tensor,
    head: nn.Linear,
    tokens: Tokens,
    *,
    temperature: float,
    seed: Seed,
    step: int,
    keys: Keys,
    leader: Tensor | None = None,
) -> Predictions:
    """Candidates at N positions: the most probable id, or a draw from softmax(logits / temperature) by Gumbel-max.

    The mask is never a candidate. It keeps its share of the probability, as in LLaDA's published procedure: a position
    at which the model would rather say nothing has low confidence.
    """
    candidates = torch.empty(len(hidden), dtype=torch.long, device=hidden.device)
    log_probability = torch.empty(len(hidden), dtype=_exact(hidden.dtype), device=hidden.device)
    for part, logits in _chunks(hidden, head, tokens, leader):
        normaliser = logits.logsumexp(dim=-1)
        logits[:, tokens.mask_id] = -torch.inf
        if temperature == 0.0:
            best, chosen = logits.max(dim=-1)
        else:
            noisy = add_gumbel_(
                _noise_copy(logits),
                temperature,
                seed=seed.of(part) if isinstance(seed, RowSeeds) else seed,
                step=step,
                rows=keys.row[part],
                blocks=keys.block[part],
                positions=keys.position[part],
            )
            chosen = noisy.argmax(dim=-1)
            best = logits.gather(1, chosen[:, None])[:, 0]
        candidates[part] = chosen
        log_probability[part] = best - normaliser
    return Predictions(
        candidates=candidates,
        log_probability=log_probability,
        hidden=hidden,
        head=head,
        tokens=tokens,
        leader=leader,
    )


def _chunks(hidden: Tensor, head: nn.Linear, tokens: Tokens, leader: Tensor | None) -> Iterator[tuple[slice, Tensor]]:
    size = max(1, _CHUNK_ELEMENTS // head.out_features)
    last: Tensor | None = None
    for start in range(0, len(hidden), size):
        part = slice(start, min(start + size, len(hidden)))
        logits = _project(head, hidden[part]).to(_exact(hidden.dtype))
        if len(tokens.suppressed):
            logits[:, tokens.suppressed] = -torch.inf
        if leader is not None:
            # The same hidden state can give other bits in another row of a matrix product.
            own = logits if last is None else torch.cat((last, logits))
            first = start - len(own) + len(logits)
            logits = own[(leader[part] - first).clamp(min=0)]
            last = logits[-1:].clone()
        yield part, logits


def _project(head: nn.Linear, hidden: Tensor) -> Tensor:
    """Logits (n, V) of hidden states (n, H), contiguous."""
    if hidden.device.type != "cpu" or len(hidden) > _FEW_ROWS:
        logits: Tensor = head(hidden)
        return logits
    # On the CPU the time goes into reading the weight, and BLAS rearranges its right factor before it multiplies: with
    # the weight on the left a few rows take half the time.
    transposed = head.weight @ hidden.T
    if head.bias is not None:
        transposed += head.bias[:, None]
    return transposed.T.contiguous()


def _exact(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _noise_copy(logits: Tensor) -> Tensor:
    # MPS has no float64.
    return logits.to(torch.float32 if logits.device.type == "mps" else torch.float64, copy=True)
