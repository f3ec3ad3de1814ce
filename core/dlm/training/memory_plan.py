"""What a rank (GPU) will need: memory for weights, AdamW, activations and gathered groups; traffic of FSDP, HSDP, DDP.

Arithmetic from shapes alone, for Qwen3 and decoders built like it. ``benchmarks/memory_plan.py`` prints it for real
sizes, ``dlm run --dry-run`` for a run.
"""

from typing import Any

import attrs

from dlm.model.body_and_head import decoder_layers

GIB = 2**30
_FLOAT32 = 4
_KEPT_COMPILED = 0.7
"""Share of the activations that compiled layers keep: .50 to .68 on an H100 (docs/gpu.md)."""


@attrs.frozen(kw_only=True)
class DecoderShape:
    """Sizes of a decoder, in numbers, not in bytes."""

    num_layers: int
    hidden: int
    intermediate: int
    """Of the gated feed-forward part."""
    queries: int
    """Width of the queries: heads x head_dim."""
    keys: int
    """Width of the keys, and of the values."""
    layer_parameters: int
    root_parameters: int
    """Of everything outside of the layers: embedding, last norm, head; shared ones once."""
    trained_share: float = 1.0
    """Share of the parameters that are trained."""

    @property
    def parameters(self) -> int:
        """Of the whole model."""
        return self.num_layers * self.layer_parameters + self.root_parameters

    @classmethod
    def qwen3(
        cls, *, num_layers: int, hidden: int, intermediate: int, heads: int, key_heads: int, tied: bool
    ) -> "DecoderShape":
        """Qwen3 with its vocabulary and its heads of 128."""
        head, vocabulary = 128, 151_936
        queries, keys = heads * head, key_heads * head
        attention = hidden * (2 * queries + 2 * keys) + 2 * head
        return cls(
            num_layers=num_layers,
            hidden=hidden,
            intermediate=intermediate,
            queries=queries,
            keys=keys,
            layer_parameters=attention + 3 * hidden * intermediate + 2 * hidden,
            root_parameters=vocabulary * hidden * (1 if tied else 2) + hidden,
        )

    @classmethod
    def of(cls, model: Any) -> "DecoderShape":
        """The sizes of a model of transformers; what its configuration does not name is taken as four times wider."""
        config = model.config.get_text_config()
        sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
        total = sum(size for size, _ in sizes)
        layers = decoder_layers(model)
        in_layers = sum(parameter.numel() for layer in layers for parameter in layer.parameters())
        heads = config.num_attention_heads
        head = getattr(config, "head_dim", None) or config.hidden_size // heads
        return cls(
            num_layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            intermediate=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
            queries=heads * head,
            keys=(getattr(config, "num_key_value_heads", None) or heads) * head,
            layer_parameters=in_layers // max(1, len(layers)),
            root_parameters=total - in_layers,
            trained_share=sum(size for size, trains in sizes if trains) / max(1, total),
        )


@attrs.frozen(kw_only=True)
class Setting:
    """How a run uses a decoder."""

    shard: int
    """Processes that share a copy of the model; 1: each holds all of it."""
    replicate: int
    """Copies."""
    positions: int
    """Positions of a micro-batch that go through the layers: rows x length, twice that with a clean copy."""
    weight_bytes: int = _FLOAT32
    """Of a stored weight (``model.dtype``)."""
    compute_bytes: int = 2
    """Of a number in the forward pass (``training.mixed_precision``)."""
    checkpointing: bool = True
    """``training.gradient_checkpointing``."""
    compiles: bool = False
    """``training.compile``."""
    accumulates: bool = False
    """Whether a step has several micro-steps."""
    mask_bytes: int = 0
    """Of the dense attention mask of a micro-batch, where there is one."""
    frozen_copies: int = 0
    """Whole models beside the trained one on each process: references."""
    trained_copies: int = 0
    """Whole models that are trained beside it on each process: value models."""
    samples_alone: bool = False
    """Whether a sharded model is gathered for sampling: rollouts."""


@attrs.frozen(kw_only=True)
class MemoryPlan:
    """Bytes on one rank, and bytes that it receives."""

    weights: float
    gradients: float
    moments: float
    """Two moments of AdamW; 8-bit optimizers take a quarter."""
    gathered: float
    """Weights and gradients that are whole for a while: everything outside of the layers, and the layers at work."""
    activations: float
    """Kept for the backward pass."""
    second_models: float
    """References, and value models with gradients and moments."""
    checkpoint: float
    """All of what a checkpoint holds, of all ranks."""
    traffic: float
    """Received a micro-step within the group that shares a copy."""
    traffic_between_copies: float
    """Received for the sum over copies: a micro-step where the model is sharded, else a step."""

    @property
    def total(self) -> float:
        """Bytes on one rank. A context of CUDA (1 GiB) and fragments of its allocator come on top."""
        own = self.weights + self.gradients + self.moments
        return own + self.gathered + self.activations + self.second_models

    def __str__(self) -> str:
        """One line for a dry run."""
        parts = {
            "weights": self.weights,
            "gradients": self.gradients,
            "AdamW": self.moments,
            "gathered or cast": self.gathered,
            "activations": self.activations,
            "second models": self.second_models,
        }
        shown = ", ".join(f"{name} {size_text(size)}" for name, size in parts.items() if size)
        return f"about {size_text(self.total)} a process ({shown})"


def plan_memory(shape: DecoderShape, setting: Setting) -> MemoryPlan:
    """What each of ``shard x replicate`` ranks will need."""
    trained, share = shape.parameters * shape.trained_share, setting.shard
    weights = shape.parameters * setting.weight_bytes
    # Gradients are summed in float32 over ranks, and kept in the precision of the weights.
    gradients = trained * setting.weight_bytes
    # DDP sums copies in buckets of its own: those of a step's only micro-step lie in them, others are added up beside.
    sides = 2 if setting.accumulates and share == 1 and setting.replicate > 1 else 1
    received = (share - 1) / share
    layers = shape.parameters - shape.root_parameters
    reduced = trained * _FLOAT32
    return MemoryPlan(
        weights=weights / share,
        gradients=sides * gradients / share,
        moments=2 * gradients / share,
        gathered=_gathered(shape, setting),
        activations=_activations(shape, setting),
        second_models=weights * (setting.frozen_copies + 4 * setting.trained_copies),
        checkpoint=weights + 2 * gradients,
        # Layers are gathered for the forward and again for the backward pass, the rest once.
        traffic=received * ((2 * layers + shape.root_parameters) * setting.compute_bytes + reduced),
        traffic_between_copies=2 * (setting.replicate - 1) / setting.replicate * reduced / share,
    )


def _is_autocast(setting: Setting) -> bool:
    """Whether whole weights are cast on the way: a shard is gathered in the precision of the forward pass."""
    return setting.shard == 1 and setting.compute_bytes < setting.weight_bytes


def _gathered(shape: DecoderShape, setting: Setting) -> float:
    if setting.shard == 1:
        # Autocast keeps a copy of the weights in the precision of the forward pass.
        return shape.parameters * setting.compute_bytes if _is_autocast(setting) else 0
    # Weights and gradients of the root and of one layer, and the weights of the layer that is fetched ahead.
    whole = 2 * (shape.root_parameters + shape.layer_parameters) + shape.layer_parameters
    return max(whole, shape.parameters * setting.samples_alone) * setting.compute_bytes


def _activations(shape: DecoderShape, setting: Setting) -> float:
    # Inputs of the projections and of the norms, queries, keys and values before and after their norms, the output of
    # the attention, and what the gated feed-forward part multiplies. Norms keep float32 of their own.
    numbers = 4 * shape.hidden + 3 * shape.queries + 3 * shape.keys + 4 * shape.intermediate
    in_float32 = 2 * shape.hidden + shape.queries + shape.keys
    input_bytes = setting.compute_bytes
    if _is_autocast(setting):
        # What is added up from layer to layer stays float32, and is cast for each of the five projections that read it.
        numbers += shape.hidden
        in_float32 += 2 * shape.hidden
        input_bytes = _FLOAT32
    kept = _KEPT_COMPILED if setting.compiles else 1.0
    layer = kept * setting.positions * (numbers * setting.compute_bytes + in_float32 * _FLOAT32)
    if not setting.checkpointing:
        return shape.num_layers * layer + setting.mask_bytes
    inputs = setting.positions * shape.num_layers * shape.hidden * input_bytes
    return inputs + layer + setting.mask_bytes


def size_text(num_bytes: float) -> str:
    """Such as ``12.3 GiB``, or ``12.3 MiB`` where it is less than that unit."""
    return f"{num_bytes / GIB:.1f} GiB" if num_bytes >= GIB else f"{num_bytes / 2**20:.1f} MiB"
