"""Tables of memory and traffic: Qwen3 of 0.6B, 8B and 32B on 8 and 64 GPUs, as ``docs/scale.md`` has them.

    python benchmarks/memory_plan.py

Arithmetic, not measurement (``core/dlm/training/memory_plan.py``): float32 weights and AdamW, computing in bf16, one
row of 4096 tokens with its clean copy on each GPU and micro-step, no dense mask.
"""

from collections.abc import Iterator

from dlm.training.memory_plan import GIB, DecoderShape, MemoryPlan, Setting, plan_memory

SHAPES = {
    "Qwen3-0.6B": DecoderShape.qwen3(num_layers=28, hidden=1024, intermediate=3072, heads=16, key_heads=8, tied=True),
    "Qwen3-8B": DecoderShape.qwen3(num_layers=36, hidden=4096, intermediate=12288, heads=32, key_heads=8, tied=False),
    "Qwen3-32B": DecoderShape.qwen3(num_layers=64, hidden=5120, intermediate=25600, heads=64, key_heads=8, tied=False),
}
MESHES = {"8 GPUs": (8, 1), "64 GPUs": (64, 1), "64 GPUs, 8 a copy": (8, 8)}
POSITIONS = 2 * 4096
IN_A_HOST, BETWEEN_HOSTS = 400e9, 50e9
"""Bytes a second that a GPU receives over NVLink, and over a network of 400 Gbit/s."""
FLOPS = 400e12
"""Of an H100 at its work, a second."""


def main() -> None:
    """Print the tables."""
    print("\n".join(tables()))


def tables() -> Iterator[str]:
    """Lines of Markdown."""
    for name, shape in SHAPES.items():
        yield f"**{name}**: {shape.parameters / 1e9:.2f} billion parameters"
        yield ""
        yield f"| on each GPU | {' | '.join(MESHES)} |"
        yield f"|---|{'---|' * len(MESHES)}"
        columns = [dict(figures(shape, *mesh)) for mesh in MESHES.values()]
        for row in columns[0]:
            yield f"| {row} | {' | '.join(column[row] for column in columns)} |"
        yield ""


def figures(shape: DecoderShape, shard: int, replicate: int) -> Iterator[tuple[str, str]]:
    """The rows of a table for one mesh."""
    plan = plan_memory(shape, Setting(shard=shard, replicate=replicate, positions=POSITIONS))
    kept = plan_memory(shape, Setting(shard=shard, replicate=replicate, positions=POSITIONS, checkpointing=False))
    yield "weights, gradients and AdamW, GiB", _gib(plan.weights + plan.gradients + plan.moments)
    yield "groups gathered at once, GiB", _gib(plan.gathered)
    yield "activations, checkpointed, GiB", _gib(plan.activations)
    yield "all together, GiB", _gib(plan.total)
    yield "all together, without checkpointing, GiB", _gib(kept.total)
    yield "received a micro-step within a copy, GB", f"{plan.traffic / 1e9:.1f}"
    yield "received for the sum over copies, GB", f"{plan.traffic_between_copies / 1e9:.1f}"
    yield "time of that traffic, s", f"{_seconds(plan, shard):.2f}"
    yield "time of the matrix products, s", f"{_products(shape):.2f}"
    yield "checkpoint, of all GPUs, GB", f"{plan.checkpoint / 1e9:.0f}"


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / GIB:.1f}"


def _seconds(plan: MemoryPlan, shard: int) -> float:
    """A copy that is spread over more GPUs than a host has is gathered at the speed of the network."""
    within = IN_A_HOST if shard <= 8 else BETWEEN_HOSTS
    return plan.traffic / within + plan.traffic_between_copies / BETWEEN_HOSTS


def _products(shape: DecoderShape) -> float:
    """Forward (2 operations a parameter and position), again for the backward pass (2), and that itself (4)."""
    return 8 * (shape.parameters - shape.root_parameters) * POSITIONS / FLOPS


if __name__ == "__main__":
    main()
