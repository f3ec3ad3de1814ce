"""Optimizers: options reach torch, embeddings keep 32-bit state, and a broken bitsandbytes is survived."""

import logging
import re
import sys
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from dlm_builtin_plugins.optimizers.adamw import AdamW
from dlm_builtin_plugins.optimizers.adamw8bit import AdamW8bit
from dlm_builtin_plugins.optimizers.eight_bit import OptimizerFallbackWarning
from dlm_builtin_plugins.optimizers.lion8bit import Lion8bit
from dlm_plugins import OptimizerFactory, ParameterGroup

FACTORIES: list[OptimizerFactory] = [AdamW(), AdamW8bit(), Lion8bit()]


def parameter(*shape: int, seed: int = 0) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(seed)))


def three_groups() -> list[ParameterGroup]:
    return [
        ParameterGroup(parameters={"layer": parameter(64, 80)}, decays=True, is_embedding=False),
        ParameterGroup(parameters={"norm": parameter(5000)}, decays=False, is_embedding=False),
        ParameterGroup(
            parameters={"embedding": parameter(100, 64), "head": parameter(100, 64, seed=1)},
            decays=True,
            is_embedding=True,
        ),
    ]


def parameters_of(groups: list[ParameterGroup]) -> list[nn.Parameter]:
    return [parameter for group in groups for parameter in group.parameters.values()]


def train(factory: OptimizerFactory, groups: list[ParameterGroup], num_steps: int) -> torch.optim.Optimizer:
    optimizer = factory.build(groups)
    for _ in range(num_steps):
        optimizer.zero_grad()
        loss = sum((parameter**2).sum() for parameter in parameters_of(groups))
        loss.backward()
        optimizer.step()
    return optimizer


def test_adamw_takes_the_published_steps():
    group = ParameterGroup(parameters={"w": parameter(7)}, decays=True, is_embedding=False)
    value = group.parameters["w"].detach().double().numpy().copy()
    train(AdamW(lr=0.01, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.3), [group], num_steps=5)
    first = second = np.zeros(7)
    for step in range(1, 6):
        gradient = 2 * value
        first = 0.8 * first + 0.2 * gradient
        second = 0.9 * second + 0.1 * gradient**2
        update = (first / (1 - 0.8**step)) / (np.sqrt(second / (1 - 0.9**step)) + 1e-6)
        value = value * (1 - 0.01 * 0.3) - 0.01 * update
    np.testing.assert_allclose(group.parameters["w"].detach(), value, rtol=1e-5)


@pytest.mark.parametrize("factory", FACTORIES, ids=repr)
def test_groups_come_in_order_with_decay_only_where_wanted(factory):
    groups = three_groups()
    optimizer = factory.build(groups)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0, 0.1]
    assert [group["lr"] for group in optimizer.param_groups] == [factory.lr] * 3
    for built, wanted in zip(optimizer.param_groups, groups, strict=True):
        assert [id(parameter) for parameter in built["params"]] == [id(p) for p in wanted.parameters.values()]


@pytest.mark.parametrize("factory", FACTORIES, ids=repr)
def test_a_group_may_be_empty(factory):
    groups = [ParameterGroup(parameters={}, decays=False, is_embedding=False), *three_groups()]
    assert [len(group["params"]) for group in train(factory, groups, 1).param_groups] == [0, 1, 1, 2]


@pytest.mark.parametrize("factory", FACTORIES, ids=repr)
def test_training_lowers_the_loss(factory):
    groups = three_groups()
    before = float(sum(parameter.detach().square().sum() for parameter in parameters_of(groups)))
    train(factory, groups, num_steps=20)
    assert float(sum(parameter.detach().square().sum() for parameter in parameters_of(groups))) < 0.999 * before


@pytest.mark.parametrize(("factory", "name"), [(AdamW8bit(), "AdamW8bit"), (Lion8bit(), "Lion8bit")], ids=repr)
def test_state_has_8_bits_except_for_embeddings(factory, name):
    groups = three_groups()
    optimizer = train(factory, groups, num_steps=2)
    assert type(optimizer).__module__.startswith("bitsandbytes")
    assert type(optimizer).__name__ == name
    layer, norm, embedding, head = (optimizer.state[parameter]["state1"].dtype for parameter in parameters_of(groups))
    assert (layer, norm) == (torch.uint8, torch.uint8)
    assert (embedding, head) == (torch.float32, torch.float32)


@pytest.mark.parametrize("cls", [AdamW, AdamW8bit, Lion8bit])
def test_options_reach_the_optimizer(cls):
    options = {"lr": 0.02, "betas": (0.7, 0.8), "weight_decay": 0.03}
    if cls is not Lion8bit:
        options["eps"] = 1e-5
    (group, *_) = cls(**options).build(three_groups()).param_groups
    assert {name: group[name] for name in options} == options


def test_32_bit_state_does_not_leak_into_another_optimizer():
    """bitsandbytes keeps overrides for the whole process, by place among other things."""
    train(AdamW8bit(), [ParameterGroup(parameters={"e": parameter(80, 64)}, decays=True, is_embedding=True)], 1)
    groups = [ParameterGroup(parameters={"w": parameter(80, 64)}, decays=True, is_embedding=False)]
    optimizer = train(AdamW8bit(), groups, 1)
    assert optimizer.state[groups[0].parameters["w"]]["state1"].dtype == torch.uint8


def test_embeddings_in_32_bits_take_the_steps_of_plain_adamw():
    def embedding() -> list[ParameterGroup]:
        return [ParameterGroup(parameters={"e": parameter(80, 64)}, decays=True, is_embedding=True)]

    quantised, plain = embedding(), embedding()
    train(AdamW8bit(lr=0.01), quantised, 10)
    train(AdamW(lr=0.01), plain, 10)
    torch.testing.assert_close(parameters_of(quantised), parameters_of(plain), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("factory", [AdamW8bit(), Lion8bit()], ids=repr)
def test_saved_state_continues_exactly_with_the_same_precision(factory, tmp_path):
    whole, halves = three_groups(), three_groups()
    train(factory, whole, 6)
    torch.save(train(factory, halves, 3).state_dict(), tmp_path / "optimizer.pt")
    resumed = factory.build(halves)
    resumed.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    for _ in range(3):
        resumed.zero_grad()
        sum((parameter**2).sum() for parameter in parameters_of(halves)).backward()
        resumed.step()
    for expected, found in zip(parameters_of(whole), parameters_of(halves), strict=True):
        assert torch.equal(expected, found)
    assert resumed.state[halves[2].parameters["head"]]["state1"].dtype == torch.float32


def fail_to_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)


def fail_to_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a missing native part does: the import works, the first call does not."""
    import bitsandbytes

    def broken(*arguments: object, **options: object) -> None:
        raise RuntimeError("compiled without support for this device\n" + "advice " * 100)

    monkeypatch.setattr(bitsandbytes.functional, "optimizer_update_8bit_blockwise", broken)


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (fail_to_import, r"\(ModuleNotFoundError: import of bitsandbytes halted"),
        (fail_to_step, r"\(RuntimeError: compiled without support for this device\)"),
    ],
)
@pytest.mark.parametrize("factory", [AdamW8bit(lr=0.02), Lion8bit(lr=0.02)], ids=repr)
def test_adamw_takes_over_with_one_warning_that_names_the_reason(
    monkeypatch, factory, failure: Callable[[pytest.MonkeyPatch], None], reason
):
    failure(monkeypatch)
    groups = three_groups()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        optimizer = factory.build(groups)
    assert [warning.category for warning in caught] == [OptimizerFallbackWarning]
    message = str(caught[0].message)
    assert re.search(reason, message)
    assert type(factory).__name__ in message
    assert "\n" not in message
    assert type(optimizer) is torch.optim.AdamW
    assert [group["lr"] for group in optimizer.param_groups] == [0.02] * 3
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0, 0.1]


def test_the_import_makes_no_remark_about_other_parts_of_the_library(monkeypatch, tmp_path, caplog):
    """On some processors bitsandbytes logs, while it is imported, that its 4-bit kernels are missing."""
    logger = logging.getLogger("bitsandbytes")
    level = logger.level
    package = tmp_path / "bitsandbytes"
    package.mkdir()
    remark = "import logging; logging.getLogger('bitsandbytes.backends.cpu.ops').warning('no kernels')"
    (package / "__init__.py").write_text(f"{remark}\nraise ImportError('that is all of it')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "bitsandbytes", raising=False)
    with pytest.warns(OptimizerFallbackWarning, match="that is all of it"):
        Lion8bit().build(three_groups())
    assert caplog.records == []
    assert logger.level == level


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: AdamW(lr=0), "'lr' must be > 0"),
        (lambda: AdamW(betas=(0.9, 1.0)), r"'betas' must both be in \[0, 1\): \(0.9, 1.0\)"),
        (lambda: AdamW8bit(weight_decay=-1), "'weight_decay' must be >= 0"),
        (lambda: AdamW8bit(eps=0), "'eps' must be > 0"),
    ],
)
def test_options_out_of_range_are_refused_by_name(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(("device", "fused"), [("cpu", None), ("cuda", True)])
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
def test_adamw_is_fused_on_cuda(device, fused):
    """On tensors without numbers, which need no such device."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        weight = nn.Parameter(torch.empty(3, device=device))
        optimizer = AdamW().build([ParameterGroup(parameters={"w": weight}, decays=True, is_embedding=False)])
    assert [group["fused"] for group in optimizer.param_groups] == [fused]
