"""The arithmetic of memory against tensors that were counted, and the tables of docs/scale.md against their script."""

import importlib
import re
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from dlm.training.memory_plan import DecoderShape, Setting, plan_memory

ROOT = Path(__file__).parents[2]
SIZES: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 128,
    "vocab_size": 500,
    "use_cache": False,
}


def test_the_tables_of_the_documentation_are_what_the_script_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    printed = "\n".join(importlib.import_module("memory_plan").tables())
    text = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    assert printed.strip() in text
    assert len(re.findall(r"^\| ", printed, re.MULTILINE)) > 30


@pytest.mark.parametrize("tied", [False, True])
def test_parameters_are_counted_as_transformers_does(tied: bool) -> None:
    sizes = {**SIZES, "vocab_size": 151_936, "tie_word_embeddings": tied}
    with torch.device("meta"):
        model = Qwen3ForCausalLM(Qwen3Config(**sizes))
    shape = DecoderShape.of(model)
    assert shape == DecoderShape.qwen3(num_layers=6, hidden=128, intermediate=384, heads=2, key_heads=1, tied=tied)
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    for parameter in model.model.parameters():
        parameter.requires_grad = False
    trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
    frozen = DecoderShape.of(model)
    assert frozen.trained_share * frozen.parameters == pytest.approx(trained)


def bytes_kept(model: Any, ids: torch.Tensor) -> int:
    """Bytes that the body keeps for its backward pass; parameters and what they are cast to are left out."""
    known = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    weights = {frozenset(parameter.shape) for parameter in model.parameters() if parameter.ndim == 2}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known and frozenset(tensor.shape) not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = model.model(input_ids=ids).last_hidden_state
    assert hidden.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize(
    ("dtype", "autocast"), [(torch.float32, False), (torch.float32, True), (torch.bfloat16, False)]
)
def test_activations_are_what_a_real_model_keeps(dtype: torch.dtype, autocast: bool) -> None:
    """Of one more layer, to 1 %: masks, positions and logits are left out of the arithmetic."""
    ids = torch.zeros(2, 60, dtype=torch.long)
    kept, planned = [], []
    for num_layers in (2, 3):
        model = Qwen3ForCausalLM(Qwen3Config(**{**SIZES, "num_hidden_layers": num_layers})).train().to(dtype)
        setting = Setting(
            shard=1,
            replicate=1,
            positions=ids.numel(),
            weight_bytes=dtype.itemsize,
            compute_bytes=2 if autocast else dtype.itemsize,
            checkpointing=False,
        )
        planned.append(plan_memory(DecoderShape.of(model), setting).activations)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            kept.append(bytes_kept(model, ids))
    assert kept[1] - kept[0] == pytest.approx(planned[1] - planned[0], rel=0.01)


@pytest.mark.parametrize("autocast", [False, True])
def test_checkpointed_activations_are_about_what_a_real_model_keeps(autocast: bool) -> None:
    model = Qwen3ForCausalLM(Qwen3Config(**SIZES)).train()
    ids = torch.zeros(2, 64, dtype=torch.long)
    setting = Setting(shard=1, replicate=1, positions=ids.numel(), compute_bytes=2 if autocast else 4)
    plan = plan_memory(DecoderShape.of(model), setting).activations
    kept = attrs.evolve(setting, checkpointing=False)
    at_work = plan_memory(attrs.evolve(DecoderShape.of(model), num_layers=1), kept).activations
    model.activation_checkpointing_enable()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = bytes_kept(model, ids)
    assert 0.9 < found / (plan - at_work) < 1.4  # masks, positions and the last norm are left out of the arithmetic


GIB = 2**30
SMALL = DecoderShape.qwen3(num_layers=28, hidden=1024, intermediate=3072, heads=16, key_heads=8, tied=True)
SLICE_OF_8B = DecoderShape.qwen3(num_layers=4, hidden=4096, intermediate=12288, heads=32, key_heads=8, tied=False)
MEASURED = (
    (SMALL, 16384, 0, False, 48.1),
    (SLICE_OF_8B, 8192, 0, False, 41.0),
    (SLICE_OF_8B, 16384, 2 * 8192**2 * 2, False, 50.1),
    (SLICE_OF_8B, 16384, 0, False, 49.1),
    (SMALL, 16384, 0, True, 33.9),
    (SMALL, 32768, 0, True, 54.2),
    (SMALL, 32768, 8 * 4096**2 * 2, True, 58.0),
    (SLICE_OF_8B, 8192, 0, True, 37.7),
    (SLICE_OF_8B, 16384, 2 * 8192**2 * 2, True, 43.4),
)
"""docs/gpu.md: shape, positions, bytes of the dense mask, compiled or not, and the peak on an H100 in GiB."""


@pytest.mark.parametrize(("shape", "positions", "mask_bytes", "compiles", "peak"), MEASURED)
def test_the_memory_of_a_step_is_what_an_h100_measured(
    shape: DecoderShape, positions: int, mask_bytes: int, compiles: bool, peak: float
) -> None:
    """The plan leaves chunks of logits and a CUDA context out; of compiled layers it knows a share alone."""
    setting = Setting(
        shard=1, replicate=1, positions=positions, checkpointing=False, mask_bytes=mask_bytes, compiles=compiles
    )
    assert plan_memory(shape, setting).total / GIB == pytest.approx(peak, rel=0.1 if compiles else 0.07)


def test_a_step_that_ran_out_of_memory_is_planned_as_too_large() -> None:
    too_large = Setting(shard=1, replicate=1, positions=2 * 16384, checkpointing=False)
    assert plan_memory(SMALL, too_large).total / GIB > 79


def test_shares_add_up() -> None:
    shape = DecoderShape.qwen3(num_layers=4, hidden=256, intermediate=512, heads=2, key_heads=1, tied=True)
    whole = plan_memory(shape, Setting(shard=1, replicate=8, positions=100))
    sharded = plan_memory(shape, Setting(shard=8, replicate=1, positions=100))
    assert 8 * sharded.weights == whole.weights == 4 * shape.parameters
    assert 8 * sharded.gradients == whole.gradients == 4 * shape.parameters
    assert 8 * sharded.moments == whole.moments == 8 * shape.parameters
    assert whole.checkpoint == sharded.checkpoint == 12 * shape.parameters
    assert (whole.traffic, sharded.traffic_between_copies) == (0, 0)
    several = plan_memory(shape, Setting(shard=1, replicate=8, positions=100, accumulates=True))
    assert several.gradients == 2 * whole.gradients
    assert several.moments == whole.moments
    # A ring: each rank receives the sum of gradients once, and hands it on once, but for its own part.
    assert whole.traffic_between_copies == 2 * 7 / 8 * 4 * shape.parameters
    parts = re.findall(r"([\d.]+) (M|G)iB", str(sharded))
    total, *each = (float(number) * (1024 if unit == "G" else 1) for number, unit in parts)
    assert len(each) == 5
    assert sum(each) == pytest.approx(total, rel=0.02)
