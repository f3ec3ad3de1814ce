"""Parameters found in the files of a folder are those that transformers would load."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import distributed
from torch.distributed.fsdp import fully_shard

from dlm.config import LoraConfig
from dlm.model.load_model import load_model
from dlm.model.stored_parameters import find_stored, original_name
from dlm.model.tokenizer import fit_vocabulary
from dlm.training.adapters import add_adapters
from dlm.training.meta_model import FromFiles

Write = Callable[..., Path]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("num_ids", [150, 230])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_they_are_what_a_loaded_model_has(
    tiny: Any, write_checkpoint: Write, tied: bool, num_ids: int, dtype: str
) -> None:
    source = write_checkpoint(tiny.qwen3(tie_word_embeddings=tied), max_shard_size="30KB")
    loaded, empty = load_model(source, dtype=dtype), load_model(source, dtype=dtype, empty=True)
    for model in (loaded, empty):
        fit_vocabulary(model, tiny.tokenizer(num_ids), 199)
    stored = find_stored(source, empty)
    assert stored is not None
    expected = dict(loaded.named_parameters())
    assert list(stored.places) == list(expected) == [name for name, _ in empty.named_parameters()]
    assert all(parameter.is_meta for parameter in empty.parameters())
    assert not any(buffer.is_meta for buffer in empty.buffers())
    for name, parameter in empty.named_parameters():
        assert torch.equal(stored.whole(name, parameter), expected[name]), name


def test_a_share_of_one_process_is_all_of_it(tiny: Any, write_checkpoint: Write, group_of_one: None) -> None:
    source = write_checkpoint(tiny.qwen3(tie_word_embeddings=True))
    empty, expected = load_model(source, empty=True), load_model(source).state_dict()
    stored = find_stored(source, empty)
    assert stored is not None
    fully_shard(empty)
    contents = FromFiles(stored=stored, device=torch.device("cpu"))
    for name, parameter in empty.named_parameters():
        share = contents.share(name, parameter)
        assert (share.placements, share.shape) == (parameter.placements, parameter.shape)
        assert torch.equal(share.to_local(), expected[name])


def test_adapters_are_drawn_and_their_base_is_found(tiny: Any, write_checkpoint: Write) -> None:
    source = write_checkpoint(tiny.qwen3())
    loaded, empty = load_model(source), load_model(source, empty=True)
    add_adapters(loaded, LoraConfig(r=2), base=str(source), seed=5)
    add_adapters(empty, LoraConfig(r=2), base=str(source), seed=5, facts={})
    stored = find_stored(source, empty)
    assert stored is not None
    for (name, one), (other_name, other) in zip(loaded.named_parameters(), empty.named_parameters(), strict=True):
        assert (name, one.shape, one.requires_grad) == (other_name, other.shape, other.requires_grad)
        assert torch.equal(one, stored.whole(name, other) if other.is_meta else other)
        assert other.is_meta == ("lora" not in name)
    assert "model.layers.0.self_attn.q_proj.weight" in map(original_name, stored.places)


@pytest.mark.parametrize("fault", ["one missing", "one too many", "another shape", "both of a tie"])
def test_what_is_not_the_very_tensor_is_left_to_transformers(tiny: Any, write_checkpoint: Write, fault: str) -> None:
    source = write_checkpoint(tiny.qwen3(tie_word_embeddings=fault == "both of a tie"))
    empty = load_model(source, empty=True)
    tensors = load_file(source / "model.safetensors")
    match fault:
        case "one missing":
            del tensors["model.norm.weight"]
        case "one too many":
            tensors["model.other.weight"] = torch.zeros(2)
        case "another shape":
            tensors["model.norm.weight"] = torch.zeros(8)
        case _:
            tensors["lm_head.weight"] = torch.zeros(200, 32)
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    assert find_stored(source, empty) is None


@pytest.fixture
def group_of_one() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()
