"""A value model: what it expects and when, what it learns, and that a run goes on with it as if it had not stopped."""

import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

import dlm
from dlm.diffusion.value_objective import ValueObjective
from dlm.training.checkpoints.manifest import NewFolder
from dlm.training.engine import Engine
from dlm.training.policy_step import PolicyStep
from dlm.training.rollouts import Rollout
from dlm.training.trainer_state import TrainerState
from dlm.training.value_model import ValueModel, discounted, values_of
from dlm_builtin_plugins.advantages.value import ValueAdvantage
from dlm_plugins import AdvantageRequest

MakeRl = Callable[..., Engine]
VALUE = ("rl.advantage=value", "rl.value={optimizer: {name: adamw, lr: 1.0e-2}}")
BLOCKS = "training.block_attention={enabled: true, block_length: 2, bias: block_causal}"


def value_model(engine: Engine) -> ValueModel:
    assert isinstance(engine.step, PolicyStep)
    assert engine.step.value_model is not None
    return engine.step.value_model


def objective_of(engine: Engine) -> ValueObjective:
    objective = value_model(engine).training_step.objective
    assert isinstance(objective, ValueObjective)
    return objective


def taught(engine: Engine, scale: float = 0.5) -> Engine:
    """The head is not zero any more."""
    generator = torch.Generator().manual_seed(3)
    head = objective_of(engine).head.weight.data
    head.copy_(torch.randn(head.shape, generator=generator) * scale)
    return engine


def rollout_of(engine: Engine, step: int = 3) -> Rollout:
    assert isinstance(engine.step, PolicyStep)
    return engine.step.rollouts(next(engine.data.loader.steps()), step)


def test_a_model_that_has_not_learned_expects_nothing(make_rl: MakeRl) -> None:
    """The first step is that of the rewards themselves."""
    rollout = rollout_of(make_rl(*VALUE))
    for states, batch, advantage in zip(rollout.states, rollout.batches, rollout.advantages, strict=True):
        assert states.policy is not None
        assert not values_of(states, batch).any()
        assert states.policy.returns is not None
        rewards = states.policy.returns[:: int(states.num_views[0, 0]), :1]
        assert torch.equal(advantage, torch.where(batch.eligible, rewards, 0.0))
        assert set(rewards.flatten().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("masking", ["trace", "all", "{name: trace, views: 1}"])
def test_values_are_those_of_the_state_before_a_token_was_written(make_rl: MakeRl, masking: str) -> None:
    """However the policy is trained; the states are laid out by hand here."""
    engine = taught(make_rl(*VALUE, f"training.noise.masking={masking}", "sampling.steps=2"))
    objective, rollout = objective_of(engine), rollout_of(engine)
    mask_id, num_found = engine.saver.objects.model.config.mask_token_id, 0
    for states, batch in zip(rollout.states, rollout.batches, strict=True):
        found = values_of(states, batch)
        for row in range(len(found)):
            steps, real = batch.committed_step[row], int((batch.document_id[row] >= 0).sum())
            for place in batch.eligible[row].nonzero()[:, 0].tolist():
                state = torch.where(steps >= steps[place], mask_id, batch.input_ids[row])[:real]
                with torch.no_grad():
                    hidden = objective.body(input_ids=state[None]).last_hidden_state[0, place]
                    expected = hidden @ objective.head.weight[0]
                assert found[row, place].item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-5)
                num_found += 1
    assert num_found == 4 * 4 * 3


@pytest.mark.parametrize("shrink", [1, 2])
def test_every_token_has_a_value(make_rl: MakeRl, shrink: int) -> None:
    """Also where all blocks go through their steps at once, and where several steps are valued as one."""
    value = f"rl.value={{shrink: {shrink}}}"
    for other in ((), (BLOCKS, "sampling.gen_length=4", "sampling.steps=4")):
        rollout = rollout_of(taught(make_rl(VALUE[0], value, *other)))
        for states, batch in zip(rollout.states, rollout.batches, strict=True):
            assert torch.equal(values_of(states, batch) != 0, batch.eligible)
            assert int(states.num_views.max()) <= -(-3 // shrink)


def test_the_loss_is_half_the_squared_error_or_that_of_the_clipped_value_if_larger(make_rl: MakeRl) -> None:
    engine = taught(make_rl("rl.advantage=value", "rl.value={updates: 2, clip: 0.1}"), scale=0.2)
    objective, (states, *_) = objective_of(engine), rollout_of(engine).states
    objective.head.weight.data.mul_(-1)
    total, sums = objective(states)
    value, policy, expected = objective.values(states), states.policy, 0.0
    assert policy is not None
    assert policy.value is not None
    assert policy.returns is not None
    for now, old, came in zip(
        value[states.scored].tolist(),
        policy.value[states.scored].tolist(),
        policy.returns[states.scored].tolist(),
        strict=True,
    ):
        near = min(max(now, old - 0.1), old + 0.1)
        expected += 0.5 * max((now - came) ** 2, (near - came) ** 2)
    assert total.item() == pytest.approx(expected, rel=1e-5)
    assert sums[1] == states.scored.sum()


def test_returns_are_what_the_advantage_compares_values_with(make_rl: MakeRl) -> None:
    rollout = rollout_of(make_rl(*VALUE, "sampling.gen_length=4", "sampling.steps=3"))
    (batch, *_), rewards = rollout.batches, torch.linspace(-1, 1, 4)
    steps = batch.committed_step
    values = torch.rand(steps.shape, generator=torch.Generator().manual_seed(0))
    request = AdvantageRequest(rewards=rewards[:, None], values=values, committed_step=steps)
    advantage = ValueAdvantage(gamma=0.7).advantage(request)
    expected = (discounted(rewards, batch, 0.7) - values).masked_fill(steps < 0, 0.0)
    assert torch.allclose(advantage, expected, atol=1e-6)


def test_it_learns_what_is_to_be_expected(make_rl: MakeRl) -> None:
    engine = make_rl(*VALUE, "training.batch_size=8")
    batches = engine.data.loader.steps()
    figures = [engine.step(next(batches), step, lambda: None).figures for step in range(12)]
    losses = [each["value_loss"] for each in figures]
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])


def test_rewards_that_are_all_the_same_are_noticed(make_rl: MakeRl) -> None:
    """Though they are better than expected."""
    engine = make_rl(*VALUE, reward="constant")
    result = engine.step(next(engine.data.loader.steps()), 0, lambda: None)
    assert result.grad_norm > 0
    assert not result.has_signal


def files_of(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir()) if path.is_file()}


@pytest.mark.parametrize("format", ["single", "sharded"])
def test_a_resumed_run_is_the_same_bit_for_bit(rl_file: Path, format: str) -> None:
    settings = [
        *VALUE,
        "rl.rewards=[{name: pattern, pattern: '[0-9a-f]'}]",
        "sampling.eos=suppress",
        "training.checkpoint={every_steps: 2, resume: latest}",
        f"training.checkpoint.format={format}",
        "rl.skip_even_groups=false",
    ]
    run = rl_file.with_name("run")
    dlm.run(rl_file, settings)
    whole = files_of(run / "checkpoints" / "step-4")
    half = files_of(run / "checkpoints" / "step-2")
    assert whole["value_model.pt"] != half["value_model.pt"]

    shutil.rmtree(run / "checkpoints" / "step-4")
    shutil.rmtree(run / "final")
    dlm.run(rl_file, settings)
    assert files_of(run / "checkpoints" / "step-4") == whole


def test_changed_options_of_its_optimizer_count_when_a_run_goes_on(make_rl: MakeRl, tmp_path: Path) -> None:
    before = make_rl(*VALUE).saver.objects
    before.stage(TrainerState(global_step=1), keeps=True).write(NewFolder(tmp_path), before)
    engine = make_rl(VALUE[0], "rl.value={optimizer: {name: adamw, lr: 1.0e-3, weight_decay: 0.2}}")
    engine.saver.objects.read_checkpoint(tmp_path)
    (first, *_) = value_model(engine).training_step.optimizer.param_groups
    assert (first["lr"], first["weight_decay"]) == (1e-3, 0.2)


def test_any_split_of_a_step_teaches_the_same(make_rl: MakeRl) -> None:
    """The gradients of the value model, too, do not depend on micro-batches."""

    def taken(*overrides: str) -> tuple[Any, dict[str, Tensor]]:
        engine = taught(make_rl(*VALUE, *overrides))
        result = engine.step(next(engine.data.loader.steps()), 3, lambda: None)
        return result, {
            name: each.grad.clone() for name, each in objective_of(engine).named_parameters() if each.grad is not None
        }

    expected, gradients = taken()
    result, ours = taken("training.batch_size=1", "training.gradient_accumulation_steps=4")
    assert result.figures == pytest.approx(expected.figures, rel=1e-4)
    assert attrs.asdict(result.sums)["total"] == pytest.approx(expected.sums.total, rel=1e-4)
    for name, gradient in gradients.items():
        assert torch.allclose(ours[name], gradient, rtol=1e-4, atol=1e-6), name
