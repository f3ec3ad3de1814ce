"""Contract tests of optimizers: groups kept, weight decay, learning rate, state saved and loaded."""

import io
from typing import Any

import torch
from torch.optim import Optimizer

from dlm_plugins.optimizer import OptimizerFactory
from dlm_plugins.testing.property_tools import at_every_value, contract_property, returned
from dlm_plugins.testing.toy_model import ToyModel, toy_model


def _build(factory: OptimizerFactory, model: ToyModel) -> Optimizer:
    return returned(factory.build(model.groups()), Optimizer, "build")


def _step(optimizer: Optimizer, model: ToyModel) -> None:
    optimizer.zero_grad()
    model.loss().backward()
    optimizer.step()


def _changed(model: ToyModel, before: dict[str, torch.Tensor]) -> list[str]:
    return [name for name, value in model.values().items() if not torch.equal(value, before[name])]


def _set_lr(optimizer: Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


@at_every_value
@contract_property
def check_groups_kept(factory: OptimizerFactory) -> None:
    """One parameter group for each group handed over, in order, with exactly its parameters."""
    model = toy_model()
    groups = model.groups()
    optimizer = _build(factory, model)
    if len(optimizer.param_groups) != len(groups):
        raise AssertionError(f"makes {len(optimizer.param_groups)} parameter groups of {len(groups)}")
    for index, (made, given) in enumerate(zip(optimizer.param_groups, groups, strict=True)):
        if [id(parameter) for parameter in made["params"]] != [id(each) for each in given.parameters.values()]:
            raise AssertionError(f"parameter group {index} does not hold {list(given.parameters)} in order")


@at_every_value
@contract_property
def check_lr_is_peak(factory: OptimizerFactory) -> None:
    """``lr`` is above 0, and the largest learning rate of the groups."""
    if not factory.lr > 0:
        raise AssertionError(f"lr is {factory.lr}, not above 0")
    rates = [group["lr"] for group in _build(factory, toy_model()).param_groups]
    if max(rates) != factory.lr or min(rates) <= 0:
        raise AssertionError(f"lr is {factory.lr}, but the groups start with {rates}")


@at_every_value
@contract_property
def check_every_parameter_moves(factory: OptimizerFactory) -> None:
    """A step moves every parameter that has a gradient, and no other."""
    for without in (None, "layers.0.proj.weight"):
        model = toy_model()
        before = model.values()
        optimizer = _build(factory, model)
        _set_lr(optimizer, 1e-2)
        model.loss().backward()
        if without is not None:
            model.parameters[without].grad = None
        optimizer.step()
        changed = _changed(model, before)
        if without in changed:
            raise AssertionError(f"a step moves {without!r}, which has no gradient")
        still = set(before) - {without, *changed}
        if still:
            raise AssertionError(f"a step leaves {sorted(still)} where they were")


@at_every_value
@contract_property
def check_descends(factory: OptimizerFactory) -> None:
    """A few steps at a learning rate of 0.01 lower a quadratic loss."""
    model = toy_model()
    optimizer = _build(factory, model)
    _set_lr(optimizer, 1e-2)
    first = model.loss().item()
    for _ in range(5):
        _step(optimizer, model)
    last = model.loss().item()
    if not last < first:
        raise AssertionError(f"five steps take the loss from {first:.6g} to {last:.6g}")


@at_every_value
@contract_property
def check_weight_decay_where_asked(factory: OptimizerFactory) -> None:
    """Without gradient, groups that do not decay stay; the others shrink if there is an option ``weight_decay`` > 0."""
    model = toy_model()
    before = model.values()
    optimizer = _build(factory, model)
    _set_lr(optimizer, 1e-2)
    for parameter in model.parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    changed = _changed(model, before)
    weight_decay = getattr(factory, "weight_decay", None)
    for index, group in enumerate(model.groups()):
        for name in group.parameters:
            if not group.decays and name in changed:
                raise AssertionError(f"weight decay moves {name!r} of group {index}, which is not to decay")
            if group.decays and weight_decay and name not in changed:
                raise AssertionError(f"weight_decay is {weight_decay}, but {name!r} of group {index} does not decay")
            if not (model.values()[name].abs() <= before[name].abs()).all():
                raise AssertionError(f"{name!r} of group {index} grows without a gradient")


@at_every_value
@contract_property
def check_schedule_takes_effect(factory: OptimizerFactory) -> None:
    """A learning rate written into the groups is the one used: 0 moves nothing."""
    model = toy_model()
    optimizer = _build(factory, model)
    _step(optimizer, model)
    before = model.values()
    _set_lr(optimizer, 0.0)
    _step(optimizer, model)
    changed = _changed(model, before)
    if changed:
        raise AssertionError(f"with the learning rate set to 0, a step still moves {changed}")


@at_every_value
@contract_property
def check_state_round_trip(factory: OptimizerFactory) -> None:
    """Saved (loadable with ``weights_only=True``), loaded into a new optimizer, it goes on bit for bit."""
    model = toy_model()
    optimizer = _build(factory, model)
    for _ in range(2):
        _step(optimizer, model)
    resumed_model = model.copy()
    resumed = _build(factory, resumed_model)
    resumed.load_state_dict(_through_file(optimizer.state_dict()))
    for _ in range(2):
        _step(optimizer, model)
        _step(resumed, resumed_model)
    changed = _changed(resumed_model, model.values())
    if changed:
        raise AssertionError(f"after loading its state it takes other steps for {changed}")


def _through_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


PROPERTIES = (
    check_groups_kept,
    check_lr_is_peak,
    check_every_parameter_moves,
    check_descends,
    check_weight_decay_where_asked,
    check_schedule_takes_effect,
    check_state_round_trip,
)
