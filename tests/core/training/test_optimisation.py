"""Parameter groups, and the course of the learning rate."""

import logging
import math

import pytest
import torch
from transformers import GptOssConfig, GptOssForCausalLM

from dlm.config import OptimConfig
from dlm.model.from_scratch import model_from_config
from dlm.training.optimisation import build_scheduler, depends_on_num_steps, parameter_groups, warn_of_lost_updates
from dlm_plugins.registry import Registry

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 64,
}


def tiny(**changes):
    return model_from_config({**SIZES, **changes}, vocab_size=100, mask_token_id=1)


@pytest.mark.parametrize("tied", [True, False])
def test_every_parameter_is_in_exactly_one_group(tied: bool) -> None:
    model = tiny(tie_word_embeddings=tied)
    groups = parameter_groups(model)
    named = [name for group in groups for name in group.parameters]
    assert sorted(named) == sorted(name for name, _ in model.named_parameters())
    identities = [id(parameter) for group in groups for parameter in group.parameters.values()]
    assert len(set(identities)) == len(identities)
    embeddings = {name for group in groups if group.is_embedding for name in group.parameters}
    assert embeddings == {"model.embed_tokens.weight"} | (set() if tied else {"lm_head.weight"})


def test_norms_and_biases_do_not_decay() -> None:
    model = tiny(attention_bias=True)
    for group in parameter_groups(model):
        for name in group.parameters:
            assert group.decays == (not name.endswith((".bias", "norm.weight"))), name
    assert any(name.endswith("q_proj.bias") for name, _ in model.named_parameters())


def test_biases_of_joined_experts_do_not_decay_though_they_are_matrices() -> None:
    sizes = {**SIZES, "num_local_experts": 2, "num_experts_per_tok": 1, "vocab_size": 100}
    model = GptOssForCausalLM(GptOssConfig(**sizes, layer_types=["full_attention"] * 2, pad_token_id=0))
    decay = {name: group.decays for group in parameter_groups(model) for name in group.parameters}
    assert model.model.layers[0].mlp.experts.down_proj_bias.ndim == 2
    assert not decay["model.layers.0.mlp.experts.down_proj_bias"]
    assert decay["model.layers.0.mlp.experts.down_proj"]


def test_frozen_parameters_are_left_out() -> None:
    model = tiny(tie_word_embeddings=False)
    model.lm_head.requires_grad_(False)
    model.model.norm.requires_grad_(False)
    named = {name for group in parameter_groups(model) for name in group.parameters}
    assert named == {name for name, _ in model.named_parameters()} - {"lm_head.weight", "model.norm.weight"}


@pytest.mark.parametrize("name", ["adamw", "adamw8bit", "lion8bit"])
def test_decay_shrinks_matrices_alone(name: str) -> None:
    """With a gradient of zero nothing else is left of a step."""
    model = tiny()
    optimizer = Registry.discover().resolve("optimizer", name).cls(lr=0.1, weight_decay=0.5)
    built = optimizer.build(parameter_groups(model))
    before = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    built.step()
    for key, parameter in model.named_parameters():
        factor = 1.0 if "norm" in key else 1 - 0.1 * 0.5
        torch.testing.assert_close(parameter.detach(), before[key] * factor, rtol=1e-5, atol=1e-7)


def config_of(**options) -> OptimConfig:
    return OptimConfig(optimizer=Registry.discover().resolve("optimizer", "adamw").cls(), **options)


def rates(num_steps: int, **options) -> list[float]:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], lr=2.0)
    scheduler = build_scheduler(config_of(**options), optimizer, num_steps)
    found = []
    for _ in range(num_steps):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("warmup", [{"warmup_ratio": 0.2}, {"warmup_steps": 4}])
def test_warm_up_rises_from_zero_and_the_course_follows(warmup: dict[str, float]) -> None:
    for name in ("linear", "cosine", "constant"):
        found = rates(20, lr_scheduler=name, **warmup)
        assert found[:5] == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0])
    rest = [step / 16 for step in range(16)]
    assert rates(20, lr_scheduler="linear", **warmup)[4:] == pytest.approx([2 * (1 - part) for part in rest])
    expected = [1 + math.cos(math.pi * part) for part in rest]
    assert rates(20, lr_scheduler="cosine", **warmup)[4:] == pytest.approx(expected)


def test_constant_is_constant_without_warm_up() -> None:
    assert rates(7, lr_scheduler="constant") == [2.0] * 7


@pytest.mark.parametrize("name", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [{}, {"warmup_ratio": 0.25}, {"warmup_steps": 4}])
def test_a_longer_run_has_the_same_beginning_exactly_where_it_is_said_to(name: str, warmup: dict[str, float]) -> None:
    options = {"lr_scheduler": name, **warmup}
    is_same = rates(20, **options) == rates(40, **options)[:20]
    assert is_same != depends_on_num_steps(config_of(**options))


@pytest.mark.parametrize(
    ("dtype", "optimizer", "is_warned"),
    [
        (torch.bfloat16, torch.optim.AdamW, True),
        (torch.float16, torch.optim.AdamW, True),
        (torch.float32, torch.optim.AdamW, False),
        (torch.float64, torch.optim.AdamW, False),
        (torch.bfloat16, torch.optim.SGD, False),
    ],
)
def test_weights_of_16_bits_are_warned_of(
    caplog: pytest.LogCaptureFixture, dtype: torch.dtype, optimizer: type[torch.optim.Optimizer], is_warned: bool
) -> None:
    weights = [torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3, dtype=dtype))]
    with caplog.at_level(logging.WARNING):
        warn_of_lost_updates(optimizer(weights, lr=1e-3))
    assert bool(caplog.records) == is_warned


def test_what_is_warned_of_happens() -> None:
    """The same small steps: float32 weights move, bf16 weights stay where they are."""
    moved = []
    for dtype in (torch.float32, torch.bfloat16):
        weight = torch.nn.Parameter(torch.ones(3, dtype=dtype))
        optimizer = torch.optim.AdamW([weight], lr=1e-3, weight_decay=0.0)
        for _ in range(50):
            weight.grad = torch.ones_like(weight)
            optimizer.step()
        moved.append(bool((weight != 1).all()))
    assert moved == [True, False]
