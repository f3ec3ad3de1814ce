"""A decoder of the Llama kind written out by hand: what a checkpoint computes, independently of transformers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor


def stored(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, in float64."""
    tensors: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= {name: tensor.double() for name, tensor in load_file(file).items()}
    return tensors


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * x / (x.square().mean(-1, keepdim=True) + eps).sqrt()


def rotated(x: Tensor, theta: float) -> Tensor:
    """(heads, L, D) turned by position, first half against second half."""
    length, half = x.shape[1], x.shape[2] // 2
    angle = torch.arange(length).double()[:, None] * theta ** -(torch.arange(half).double() / half)
    first, second = x[..., :half], x[..., half:]
    return torch.cat((first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()), dim=-1)


def linear(x: Tensor, tensors: Mapping[str, Tensor], name: str) -> Tensor:
    return F.linear(x, tensors[f"{name}.weight"], tensors.get(f"{name}.bias"))


def logits_of(
    tensors: Mapping[str, Tensor], ids: Tensor, visible: Tensor, *, heads: int, kv_heads: int, eps: float, theta: float
) -> Tensor:
    """(L, V) logits of one row ``ids`` (L,), where query i sees key j if ``visible[i, j]``. Names are Qwen's."""
    hidden = tensors["model.embed_tokens.weight"][ids]
    for index in range(sum(name.endswith("input_layernorm.weight") for name in tensors)):
        layer = {
            name.removeprefix(f"model.layers.{index}."): tensor
            for name, tensor in tensors.items()
            if name.startswith(f"model.layers.{index}.")
        }
        hidden = hidden + attention(layer, norm(hidden, layer["input_layernorm.weight"], eps), visible, heads, kv_heads,
                                    eps, theta)  # fmt: skip
        x = norm(hidden, layer["post_attention_layernorm.weight"], eps)
        gate = F.silu(linear(x, layer, "mlp.gate_proj"))
        hidden = hidden + linear(gate * linear(x, layer, "mlp.up_proj"), layer, "mlp.down_proj")
    head = tensors.get("lm_head.weight", tensors["model.embed_tokens.weight"])
    return norm(hidden, tensors["model.norm.weight"], eps) @ head.T


def attention(
    layer: Mapping[str, Tensor], x: Tensor, visible: Tensor, heads: int, kv_heads: int, eps: float, theta: float
) -> Tensor:
    parts = {}
    for part, count in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
        split = linear(x, layer, f"self_attn.{part}_proj").unflatten(-1, (count, -1)).transpose(0, 1)
        weight: Any = layer.get(f"self_attn.{part}_norm.weight")
        split = split if weight is None else norm(split, weight, eps)
        parts[part] = split if part == "v" else rotated(split, theta)
    k, v = (parts[part].repeat_interleave(heads // kv_heads, dim=0) for part in "kv")
    scores = (parts["q"] @ k.transpose(1, 2)) / k.shape[-1] ** 0.5
    mixed = scores.masked_fill(~visible, -torch.inf).softmax(-1) @ v
    return linear(mixed.transpose(0, 1).flatten(1), layer, "self_attn.o_proj")


def block_causal(length: int, block: int) -> Tensor:
    """(L, L) who sees whom where blocks count from the first token."""
    number = torch.arange(length) // block
    return number[:, None] >= number[None, :]


def full(length: int) -> Tensor:
    return torch.ones(length, length, dtype=torch.bool)
