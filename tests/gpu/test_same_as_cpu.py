"""Noise, losses, gradients and samples on a GPU are those of the CPU."""

import random
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

import dlm
from dlm.config import load_mapping, run_components
from dlm.data.batch import Batch
from dlm.diffusion.forward_process import NoisedBatch
from dlm.diffusion.vocabulary import Vocabulary
from dlm.model.from_scratch import model_from_config
from dlm.training.model_and_noise import build_forward_process, build_objective
from dlm_plugins.registry import Registry

pytestmark = pytest.mark.gpu

MASK_ID, LENGTH = 90, 40
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "initializer_range": 0.2,
    "tie_word_embeddings": True,
}


def make_batch() -> Batch:
    """Two documents a row, isolated, and padding at the end of the second row."""
    ids = torch.randint(MASK_ID, (3, LENGTH), generator=torch.Generator().manual_seed(0))
    place = torch.arange(LENGTH).expand_as(ids)
    padding = (place >= 30) & (torch.arange(3)[:, None] == 1)
    return Batch(
        input_ids=ids,
        document_id=torch.where(padding, -1, place // 25),
        position=torch.where(padding, 0, place % 25),
        eligible=~padding,
        answer_start=torch.zeros_like(ids),
        answer_length=None,
        row_index=torch.arange(3),
        isolate_documents=True,
    )


def noise_and_loss(device: torch.device, bias: str, masking: str = "bernoulli") -> tuple[NoisedBatch, Any, Tensor]:
    """The noised batch, the model with its gradients, and the loss."""
    loaded = load_mapping(
        {
            "model": {"config": SIZES, "tokenizer": {"train": {}}},
            "training": {
                "output_dir": "unused",
                "max_steps": 1,
                "block_attention": {"enabled": bias != "full", "bias": bias, "block_length": 8},
                "noise": {"masking": masking},
            },
            "dataset": {"name": "python-docs"},
            "optim": {"name": "adamw"},
        }
    )
    components = run_components(loaded.config, loaded.registry)
    vocabulary = Vocabulary(
        size=MASK_ID + 1,
        mask_id=MASK_ID,
        special_ids=torch.tensor([MASK_ID]),
        starts_word=torch.arange(MASK_ID + 1) % 3 == 0,
    )
    model = model_from_config(SIZES, vocab_size=MASK_ID + 6, mask_token_id=MASK_ID).to(device).train()
    process = build_forward_process(loaded.config, components, loaded.registry, vocabulary)
    noised = process(make_batch(), step=5, num_rows=3).to(device)
    total, sums = build_objective(model, loaded.config, components, vocabulary)(noised)
    loss = total / sums[1]
    loss.backward()
    return noised, model, loss.detach()


@pytest.mark.parametrize("masking", ["bernoulli", "contiguous"])
def test_noise_arrives_on_the_device(device: torch.device, masking: str) -> None:
    ours, theirs = (noise_and_loss(each, "full", masking)[0] for each in (device, torch.device("cpu")))
    for field in attrs.fields(NoisedBatch):
        mine, expected = getattr(ours, field.name), getattr(theirs, field.name)
        if isinstance(mine, Tensor):
            assert mine.device.type == device.type
            assert mine.cpu().equal(expected), field.name


@pytest.mark.parametrize("bias", [entry.name for entry in Registry.discover().entries("attention_bias")])
def test_loss_and_gradients_are_those_of_the_cpu(device: torch.device, bias: str) -> None:
    _, ours, loss = noise_and_loss(device, bias)
    _, theirs, expected = noise_and_loss(torch.device("cpu"), bias)
    torch.testing.assert_close(loss.cpu(), expected, rtol=1e-5, atol=0)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert float((mine.grad.cpu() - other.grad).norm() / other.grad.norm()) < 1e-4


@pytest.mark.parametrize("cache", ["off", "auto", "dual"])
def test_samples_are_those_of_the_cpu(device: torch.device, cache: str) -> None:
    model = model_from_config(SIZES, vocab_size=MASK_ID + 6, mask_token_id=MASK_ID, dtype=torch.float64)
    prompt = torch.tensor([random.Random(2).choices(range(MASK_ID), k=9)])

    def sample(place: torch.device) -> list[int]:
        output = dlm.generate(
            model.to(place),
            prompt.to(place),
            gen_length=16,
            steps=8,
            block_length=8,
            temperature=0.7,
            attention_bias="block_causal",
            cache=cache,
        )
        ids: list[int] = output.sequences[0].tolist()
        return ids

    assert sample(device) == sample(torch.device("cpu"))


def test_generators_of_the_device_are_saved(device: torch.device, tmp_path: Path) -> None:
    from dlm.training.randomness import generator_states, restore_generators

    states = generator_states()
    torch.save(states, tmp_path / "states.pt")
    first = torch.rand(4, device=device)
    restore_generators(torch.load(tmp_path / "states.pt", weights_only=True))
    assert torch.rand(4, device=device).equal(first)
