"""A small random transformer in float64, on which claims about visibility are tried."""

import functools
import math

import torch
from torch import Tensor

from dlm_plugins.attention_bias import AttentionBias, SequenceLayout, bias_of_layer
from dlm_plugins.testing.property_tools import returned

NUM_LAYERS = 4
NUM_HEADS = 2
VOCABULARY_SIZE = 16
_WIDTH = 8


def visible(bias: AttentionBias, layout: SequenceLayout) -> Tensor | None:
    """(B, heads, L, L) bool: what the mask function of ``bias`` says for every pair; None for no mask function."""
    function = bias.mask_function(layout)
    if function is None:
        return None
    num_rows, length = layout.position.shape
    batch, head, index = (torch.arange(size, device=layout.position.device) for size in (num_rows, NUM_HEADS, length))
    batch, head = batch[:, None, None, None], head[None, :, None, None]
    if not callable(function):
        raise AssertionError(f"mask_function returned {function!r}, not a function")
    answers = returned(function(batch, head, index[:, None], index), Tensor, "the mask function")
    return answers.expand(num_rows, NUM_HEADS, length, length)


def isolated(layout: SequenceLayout) -> Tensor:
    """(B, 1, L, L) bool: what the core hides whatever the bias says: padding and other documents."""
    document = layout.document
    return ((document[:, :, None] == document[:, None, :]) & (document[:, None, :] >= 0))[:, None]


def outputs(bias: AttentionBias, layout: SequenceLayout, ids: Tensor) -> Tensor:
    """Hidden states (B, L, width) float64 after all layers, for ids (B, L) below ``VOCABULARY_SIZE``."""
    embedding, layers = _weights()
    hidden = embedding[ids] + embedding[layout.position % VOCABULARY_SIZE].flip(-1)
    itself = torch.eye(ids.shape[1], dtype=torch.bool)
    for index, (query, key, value, mixer) in enumerate(layers):
        allowed = visible(bias_of_layer(bias, index), layout)
        allowed = isolated(layout) if allowed is None else allowed & isolated(layout)
        allowed = allowed | (itself & ~allowed.any(-1, keepdim=True))  # a row that sees nothing, padding for one
        heads = [_split(hidden @ matrix) for matrix in (query, key, value)]
        scores = heads[0] @ heads[1].mT / math.sqrt(_WIDTH / NUM_HEADS)
        mixed = scores.masked_fill(~allowed, -torch.inf).softmax(-1) @ heads[2]
        hidden = hidden + torch.tanh(mixed.transpose(1, 2).flatten(2) @ mixer)
    return hidden


def _split(hidden: Tensor) -> Tensor:
    """(B, L, width) to (B, heads, L, width / heads)."""
    return hidden.reshape(*hidden.shape[:2], NUM_HEADS, -1).transpose(1, 2)


@functools.cache
def _weights() -> tuple[Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    embedding = torch.randn(VOCABULARY_SIZE, _WIDTH, generator=generator, dtype=torch.float64)
    layers = torch.randn(NUM_LAYERS, 4, _WIDTH, _WIDTH, generator=generator, dtype=torch.float64) / math.sqrt(_WIDTH)
    return embedding, list(layers)
