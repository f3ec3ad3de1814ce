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
    """Bytes that the body keeps for its backward pass, parameters left out."""
    known = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = model.model(input_ids=ids).last_hidden_state
    assert hidden.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_are_about_what_a_real_model_keeps(checkpointing: bool) -> None:
    model = Qwen3ForCausalLM(Qwen3Config(**SIZES)).train()
    ids = torch.zeros(2, 64, dtype=torch.long)
    expected = plan_memory(
        DecoderShape.of(model),
        Setting(shard=1, replicate=1, positions=ids.numel(), compute_bytes=4, checkpointing=checkpointing),
    )
    if checkpointing:
        model.activation_checkpointing_enable()
        one_layer = plan_memory(
            attrs.evolve(DecoderShape.of(model), num_layers=1),
            Setting(shard=1, replicate=1, positions=ids.numel(), compute_bytes=4, checkpointing=False),
        )
        found = bytes_kept(model, ids) + one_layer.activations
    else:
        found = bytes_kept(model, ids)
    assert 0.75 < found / expected.activations < 1.33


def test_shares_add_up() -> None:
    shape = DecoderShape.qwen3(num_layers=4, hidden=256, intermediate=512, heads=2, key_heads=1, tied=True)
    whole = plan_memory(shape, Setting(shard=1, replicate=8, positions=100))
    sharded = plan_memory(shape, Setting(shard=8, replicate=1, positions=100))
    assert 8 * sharded.weights == whole.weights == 4 * shape.parameters
    assert 8 * sharded.gradients == whole.gradients == 4 * shape.parameters
    assert 8 * sharded.moments == whole.moments == 8 * shape.parameters
    assert whole.checkpoint == sharded.checkpoint == 12 * shape.parameters
    assert (whole.traffic, sharded.traffic_between_copies) == (0, 0)
    # A ring: each rank receives the sum of gradients once, and hands it on once, but for its own part.
    assert whole.traffic_between_copies == 2 * 7 / 8 * 4 * shape.parameters
    parts = re.findall(r"([\d.]+) (M|G)iB", str(sharded))
    total, *each = (float(number) * (1024 if unit == "G" else 1) for number, unit in parts)
    assert len(each) == 5
    assert sum(each) == pytest.approx(total, rel=0.02)
