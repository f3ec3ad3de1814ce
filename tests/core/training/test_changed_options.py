"""``--allow-change optim``: a run that goes on takes its own learning rate, decay and course, and what was learned."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dlm.training.checkpoints.manifest import NewFolder
from dlm.training.engine import Engine
from dlm.training.sharded_contents import ShardedContents
from dlm.training.trainer_state import TrainerState

MakeEngine = Callable[..., Engine]
OTHER = "optim={name: adamw, lr: 1.0e-4, weight_decay: 0.5, betas: [0.8, 0.9], lr_scheduler: cosine}"
NUM_STEPS = 3


def after_steps(engine: Engine, folder: Path, *, sharded: bool = False) -> Engine:
    """Take a few steps, and write a checkpoint."""
    for step, batch in zip(range(NUM_STEPS), engine.data.loader.steps(), strict=False):
        engine.step(batch, step)
    objects, state = engine.saver.objects, TrainerState(global_step=NUM_STEPS)
    contents = ShardedContents.stage(objects, state, None) if sharded else objects.stage(state, keeps=True)
    folder.mkdir()
    contents.write(NewFolder(folder), objects)
    return engine


def groups_of(engine: Engine) -> list[dict[str, object]]:
    """How the next step will be taken."""
    groups = engine.saver.objects.optimizer.param_groups
    return [{name: value for name, value in group.items() if name != "params"} for group in groups]


@pytest.mark.parametrize("sharded", [False, True])
def test_changed_options_are_those_of_the_next_step(make_engine: MakeEngine, tmp_path: Path, sharded: bool) -> None:
    before = after_steps(make_engine(), tmp_path / "step", sharded=sharded)
    expected = after_steps(make_engine(OTHER), tmp_path / "other")
    engine = make_engine(OTHER)
    engine.saver.objects.read_checkpoint(tmp_path / "step")
    assert groups_of(engine) == groups_of(expected) != groups_of(before)
    assert engine.step.learning_rate == expected.step.learning_rate
    batch = next(engine.data.loader.steps())
    results = [each.step(batch, NUM_STEPS).learning_rate for each in (engine, expected)]
    assert results[0] == results[1]
    assert engine.step.learning_rate == expected.step.learning_rate


def test_another_number_of_steps_counts_from_the_next_step_on(make_engine: MakeEngine, tmp_path: Path) -> None:
    after_steps(make_engine(), tmp_path / "step")
    engine = make_engine("training.max_steps=40")
    engine.saver.objects.read_checkpoint(tmp_path / "step")
    assert engine.step.learning_rate == pytest.approx(1e-2 * (1 - NUM_STEPS / 40))


@pytest.mark.parametrize("sharded", [False, True])
def test_what_was_learned_stays_and_so_does_what_is_no_option(
    make_engine: MakeEngine, tmp_path: Path, sharded: bool
) -> None:
    """Some optimizers keep in their groups what changes from step to step."""
    before = make_engine()
    for group in before.saver.objects.optimizer.param_groups:
        group["num_seen"] = 7
    after_steps(before, tmp_path / "step", sharded=sharded)
    engine = make_engine(OTHER)
    engine.saver.objects.read_checkpoint(tmp_path / "step")
    assert [group["num_seen"] for group in groups_of(engine)] == [7] * len(groups_of(engine))
    states = [each.saver.objects.optimizer.state_dict()["state"] for each in (before, engine)]
    for number, values in states[0].items():
        assert all(torch.equal(value, states[1][number][name]) for name, value in values.items())
