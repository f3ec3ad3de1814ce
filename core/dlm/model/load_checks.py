"""Prove on a tiny input that a loaded model is bidirectional, obeys its mask, and has a head we can chunk."""

from typing import Any

import torch
from torch import Tensor, nn

from dlm.errors import ModelError
from dlm.model.body_and_head import DecoderParts, split
from dlm.model.checkpoint_sources import one_line
from dlm.model.masks import MASKED_IMPLEMENTATIONS, attention_mask_for

# B rows, L positions, H hidden size, V vocabulary.

_LARGE_LOGIT = 1000.0
"""Logits are brought to this size, where a cap on them shows; all floating dtypes hold it."""


def prove_bidirectional(model: Any) -> None:
    """Check the three things that `dlm` relies on, in the model's own dtype and on its own device.

    1. The last token moves the output at the first position, and padding on either side moves nothing.
    2. A mask that hides all other positions from one is obeyed (where the backend can follow masks).
    3. The head applied to the body's hidden states gives the model's logits: nothing scales or caps them.

    Dependence is measured by the derivative of the output by the token embeddings. It is exactly zero where there is no
    path, and it does not drown in the rounding of 16-bit numbers as a difference of outputs would.

    Raises:
        ModelError: One of them does not hold, or the model fails to run; with the reason.
    """
    was_training = model.training
    model.eval()
    try:
        parts = split(model)
        _prove_direction(model, parts.body)
        if model.config._attn_implementation in MASKED_IMPLEMENTATIONS:
            _prove_mask(model, parts.body)
        _prove_head(model, parts)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"{type(model).__name__} does not run on a tiny input: {one_line(error)}") from error
    finally:
        model.train(was_training)


def _token_ids(model: Any, length: int) -> Tensor:
    """(1, L) distinct token ids, as far as the vocabulary goes."""
    embedding: nn.Embedding = model.get_input_embeddings()
    ids = torch.arange(1, length + 1, device=embedding.weight.device) % embedding.num_embeddings
    return ids.unsqueeze(0)


def _influence(model: Any, body: nn.Module, input_ids: Tensor, attention_mask: Tensor | None, query: int) -> Tensor:
    """(L,) how much the output at position ``query`` of the one row depends on the embedding of each position."""
    embedded: list[Tensor] = []

    def track(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[-1]

    handle = model.get_input_embeddings().register_forward_hook(track)
    try:
        with torch.enable_grad():
            hidden = body(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state[0, query]  # (H,)
            # Uneven weights: a plain sum over a layer norm's outputs is constant.
            weights = torch.sin(torch.arange(1, hidden.numel() + 1, device=hidden.device, dtype=torch.float32))
            (gradient,) = torch.autograd.grad((hidden.float() * weights).sum(), embedded[0])
    finally:
        handle.remove()
    influence = gradient[0].float().abs().sum(dim=-1)
    if not bool(influence.isfinite().all()):
        raise ModelError(f"{type(model).__name__} gives outputs or gradients that are not finite")
    return influence


def _prove_direction(model: Any, body: nn.Module) -> None:
    name = type(model).__name__
    remedy = "it stays causal in spite of is_causal: false in its configuration"
    if not bool(_influence(model, body, _token_ids(model, 4), None, query=0)[-1] > 0):
        raise ModelError(f"{name} is not bidirectional: its first output does not depend on the last token; {remedy}")
    for padded, side in (([0, 1], "left"), ([4, 5], "right")):
        input_ids = _token_ids(model, 6)
        padding_mask = torch.ones_like(input_ids)
        padding_mask[0, padded] = 0
        first, last = (2, 5) if side == "left" else (0, 3)
        influence = _influence(model, body, input_ids, padding_mask, query=first)
        if not bool(influence[last] > 0):
            raise ModelError(f"{name} is not bidirectional where a row is padded; {remedy}")
        if bool(influence[padded].any()):
            raise ModelError(f"{name} lets real tokens see padding on the {side}, in spite of the attention mask")


def _prove_mask(model: Any, body: nn.Module) -> None:
    visible = torch.ones(1, 4, 4, dtype=torch.bool, device=model.get_input_embeddings().weight.device)
    visible[0, 0, 1:] = False
    mask = attention_mask_for(visible, implementation=model.config._attn_implementation, dtype=model.dtype)
    name = type(model).__name__
    try:
        influence = _influence(model, body, _token_ids(model, 4), mask, query=0)
    except ModelError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise ModelError(f"{name} cannot take an attention mask (B, 1, Q, K): {one_line(error)}") from error
    if bool(influence[1:].any()):
        raise ModelError(f"{name} does not follow an attention mask (B, 1, Q, K): a position sees what was hidden")


@torch.no_grad()
def _prove_head(model: Any, parts: DecoderParts) -> None:
    input_ids = _token_ids(model, 4)
    hidden = parts.body(input_ids=input_ids).last_hidden_state[0, 1:3]  # (2, H)
    logits = parts.head(hidden)
    scale = _LARGE_LOGIT / logits.abs().max().clamp_min(torch.finfo(logits.dtype).tiny)
    # Capped logits are nearly equal to uncapped ones while they are small, so the head's output is made large.
    handle = parts.head.register_forward_hook(lambda _module, _args, output: output * scale)
    try:
        expected = parts.head(hidden).float()
        actual = model(input_ids=input_ids).logits[0, 1:3].float()
    finally:
        handle.remove()
    # Another number of positions may change the order of summation, by a few units in the last place.
    tolerance = 16 * torch.finfo(logits.dtype).eps * _LARGE_LOGIT
    if actual.shape != expected.shape or not bool((actual - expected).abs().max() <= tolerance):
        raise ModelError(
            f"{type(model).__name__}: the head applied to the hidden states does not give the model's logits; the "
            "family scales, caps or transforms them, which the objective of dlm does not reproduce"
        )
