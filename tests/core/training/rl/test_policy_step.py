"""A step of learning from rewards: views are the states of the rollout, and however rows are split, one update."""

import itertools
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

from dlm.errors import ExitCode, NothingToLearnError
from dlm.training.engine import FEW_STEPS_WITHOUT_SIGNAL, MAX_STEPS_WITHOUT_SIGNAL, Engine
from dlm.training.policy_step import PolicyStep

MakeRl = Callable[..., Engine]
SPLITS = {
    "two micro-batches": ("training.batch_size=2", "training.gradient_accumulation_steps=2"),
    "row by row": ("training.batch_size=1", "training.gradient_accumulation_steps=4"),
}
MASKINGS = {
    "trace": (),
    "sampled": ("training.noise.masking={name: trace, views: 1}",),
    "all": ("training.noise.masking=all",),
}


def policy_step(engine: Engine) -> PolicyStep:
    assert isinstance(engine.step, PolicyStep)
    return engine.step


EVEN_TOO = ("rl.skip_even_groups=false",)


def taken(engine: Engine, step: int = 3) -> tuple[Any, dict[str, Tensor]]:
    result = engine.step(next(engine.data.loader.steps()), step, lambda: None)
    named = engine.saver.objects.model.named_parameters()
    return result, {name: each.grad.clone() for name, each in named if each.grad is not None}


@pytest.mark.parametrize("masking", MASKINGS)
def test_any_split_of_a_step_gives_the_same_update(make_rl: MakeRl, largest_difference: Any, masking: str) -> None:
    expected, gradients = taken(make_rl(*MASKINGS[masking]))
    assert expected.grad_norm > 0
    for split in SPLITS.values():
        result, ours = taken(make_rl(*MASKINGS[masking], *split))
        assert result.figures == pytest.approx(expected.figures, rel=1e-4)
        assert largest_difference(ours, gradients) < 1e-5


def test_the_order_of_the_rows_does_not_matter(make_rl: MakeRl, largest_difference: Any) -> None:
    _, gradients = taken(make_rl())
    engine = make_rl()
    step = policy_step(engine)
    rollouts = step.rollouts

    def turned(*arguments: Any) -> Any:
        rollout = rollouts(*arguments)
        order = [torch.arange(len(batch.row_index)).flip(0) for batch in rollout.batches]
        return attrs.evolve(
            rollout,
            batches=[batch.rows_at(index) for batch, index in zip(rollout.batches, order, strict=True)],
            advantages=[each.flip(0) for each in rollout.advantages],
            group_advantages=[each.flip(0) for each in rollout.group_advantages],
        )

    step.rollouts = turned  # type: ignore[assignment]
    assert largest_difference(taken(engine)[1], gradients) < 1e-5


@pytest.mark.parametrize("skips", ["true", "false"])
def test_equal_rewards_teach_nothing(make_rl: MakeRl, skips: str) -> None:
    engine = make_rl(f"rl.skip_even_groups={skips}", reward="constant")
    result, gradients = taken(engine)

    assert not result.has_signal
    assert not result.is_bad
    assert result.figures["even_groups"] == 1
    assert all(not gradient.any() for gradient in gradients.values())


def test_equal_rewards_are_no_signal_to_a_value_model_either(make_rl: MakeRl) -> None:
    result, _ = taken(make_rl(*VALUE, reward="constant"))
    assert result.figures["reward_std"] == 0
    assert not result.has_signal


def test_groups_without_signal_are_left_out_and_change_nothing_but_the_average(
    make_rl: MakeRl, largest_difference: Any
) -> None:
    pairs = ("rl.group_size=2", "training.batch_size=8")
    kept, gradients = taken(make_rl("rl.skip_even_groups=false", *pairs))
    left_out, ours = taken(make_rl(*pairs))
    share = kept.figures["groups_with_signal"] / 8

    assert 0 < share < 1
    assert left_out.figures["even_groups"] == kept.figures["even_groups"] == 1 - share
    assert left_out.grad_norm * share == pytest.approx(kept.grad_norm, rel=1e-4)
    unclipped = {name: each / min(1, 1 / left_out.grad_norm) * share for name, each in ours.items()}
    plain = {name: each / min(1, 1 / kept.grad_norm) for name, each in gradients.items()}
    assert largest_difference(unclipped, plain) < 1e-4


def test_views_are_the_states_that_the_sampler_saw(make_rl: MakeRl) -> None:
    """Every row that reached the body in the rollout is a view, and every view is one of them."""
    engine = make_rl("sampling.cache=off", "rl.skip_even_groups=false", "sampling.steps=2")
    step, sampled, trained = policy_step(engine), [], []
    body = engine.saver.objects.model.get_decoder()
    into = [sampled]
    handle = body.register_forward_pre_hook(
        lambda _, args, kwargs: into[0].extend(map(tuple, kwargs["input_ids"].tolist())), with_kwargs=True
    )
    batch = next(engine.data.loader.steps())
    rollout = step.rollouts(batch, 0)
    into[0] = trained
    step.training_step.update([step._view(rollout, n, 0) for n in range(len(rollout.batches))], len(rollout.batches), 0)
    handle.remove()

    assert len(sampled) == 4 * 4 * 2
    assert sorted(sampled) == sorted(trained)


def test_an_answer_that_ended_leaves_masks_where_nothing_was_written(make_rl: MakeRl) -> None:
    """Blocks behind the end are never decoded: in every state that the sampler saw they were masks."""
    engine = make_rl("sampling.gen_length=4", "sampling.steps=4", "sampling.block_length=1", "sampling.eos_id=[]")
    step = policy_step(engine)
    step.rollouts = attrs.evolve(
        step.rollouts, settings=attrs.evolve(step.rollouts.settings, eos_id=tuple(range(0, 256, 2)))
    )
    rollout = step.rollouts(next(engine.data.loader.steps()), 0)
    mask_id = engine.saver.objects.model.config.mask_token_id

    assert rollout.figures["answer_length"] < 4
    for batch in rollout.batches:
        real = batch.document_id >= 0
        empty = real & (torch.arange(batch.position.shape[1]) >= batch.answer_start) & (batch.committed_step < 0)
        assert torch.equal(batch.eligible, batch.committed_step >= 0)
        assert (batch.input_ids[empty] == mask_id).all()
        assert (batch.input_ids[batch.eligible] != mask_id).all()


def test_at_the_first_update_every_ratio_is_one(make_rl: MakeRl) -> None:
    engine = make_rl("rl.updates_per_rollout=2", "training.max_grad_norm=null")
    step = policy_step(engine)
    rollout = step.rollouts(next(engine.data.loader.steps()), 3)
    view = step._view(rollout, 0, 3)
    again = engine.accelerator.unwrap_model(step.objective).log_probabilities(view)

    assert view.policy is not None
    assert torch.equal(again, view.policy.old_log_probability)
    assert (again[view.scored] < 0).all()
    result, _ = taken(engine)
    assert result.figures["ratio_max"] > 1
    assert result.figures["kl_to_old"] > 0
    one, _ = taken(make_rl("training.max_grad_norm=null"))
    assert (one.figures["ratio_mean"], one.figures["ratio_max"], one.figures["clipped_share"]) == (1, 1, 0)


def test_the_learning_rate_advances_once_a_step(make_rl: MakeRl) -> None:
    rates = []
    for updates in (1, 3):
        engine = make_rl(f"rl.updates_per_rollout={updates}", "optim.lr_scheduler=linear")
        batches = engine.data.loader.steps()
        rates.append([engine.step(next(batches), step, lambda: None).learning_rate for step in range(3)])
    assert rates[0] == rates[1]


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_a_gradient_that_is_not_finite_is_noticed_in_every_update(make_rl: MakeRl, bad: int) -> None:
    engine = make_rl("rl.updates_per_rollout=3")
    parameter, micro_batches = next(engine.saver.objects.model.parameters()), itertools.count()
    # Four answers to each of four prompts are four micro-batches.
    parameter.register_hook(lambda gradient: gradient * (float("nan") if next(micro_batches) // 4 == bad else 1.0))
    result, _ = taken(engine)
    assert next(micro_batches) == 3 * 4
    assert result.is_bad
    assert not math.isfinite(result.grad_norm)
    assert all(bool(each.isfinite().all()) for each in engine.saver.objects.model.parameters())


def test_a_reference_is_the_model_of_the_start(make_rl: MakeRl) -> None:
    loss = "training.loss_impl={name: policy_clip, kl: k3, beta: 0.5}"
    engine = make_rl(loss, "rl.reference=start", "optim.lr=5.0e-2")
    batches = engine.data.loader.steps()
    found = [engine.step(next(batches), step, lambda: None).figures["kl_to_reference"] for step in range(3)]

    assert found[0] == pytest.approx(0, abs=1e-6)
    assert found[2] > 1e-3


def test_answers_without_an_end_are_worth_nothing_or_not_trained(make_rl: MakeRl) -> None:
    endless, masked = make_rl("rl.overlong=zero"), make_rl("rl.overlong=mask")
    judge = attrs.evolve(policy_step(endless).rollouts.judge, overlong_is_worthless=True)
    policy_step(endless).rollouts = attrs.evolve(policy_step(endless).rollouts, judge=judge)
    worthless, _ = taken(endless)
    rollout = policy_step(masked).rollouts(next(masked.data.loader.steps()), 3)

    assert worthless.figures["without_end"] > 0.9  # a model that knows nothing hardly ever writes the end
    assert worthless.figures["reward"] < 0.1
    assert sum(int((batch.row_index >= 0).sum()) for batch in rollout.batches) < 2


def test_answers_end_where_the_settings_say(make_rl: MakeRl) -> None:
    """Here with whatever is written first."""
    result, _ = taken(make_rl(f"sampling.eos_id={list(range(258))}"))
    assert result.figures["answer_length"] == 1
    assert result.figures["without_end"] == 0


def test_a_curriculum_lengthens_the_answers(make_rl: MakeRl) -> None:
    engine = make_rl("rl.curriculum=[{step: 0, gen_length: 1}, {step: 2, gen_length: 3}]", "rl.skip_even_groups=false")
    batch = next(engine.data.loader.steps())
    written = [int(policy_step(engine).rollouts(batch, step).batches[0].eligible.sum(1).max()) for step in (0, 1, 2)]
    assert written == [1, 1, 3]


def test_a_curriculum_keeps_the_blocks_of_section_sampling(make_rl: MakeRl) -> None:
    engine = make_rl(
        "sampling.block_length=2", "rl.curriculum=[{step: 0, gen_length: 1}, {step: 1, gen_length: 3}]", *EVEN_TOO
    )
    for step in (0, 1):
        (batch,) = policy_step(engine).rollouts(next(engine.data.loader.steps()), step).batches[:1]
        assert batch.committed_step is not None
        for row, eligible in zip(batch.committed_step, batch.eligible, strict=True):
            assert row[eligible][:2].max() < 2  # the third token is a block of its own, the last one


def test_samples_show_answers_with_what_they_are_worth(make_rl: MakeRl, tmp_path: Path) -> None:
    """The first answers of each step that is logged; the advantage is the reward minus that of the three others."""
    engine = make_rl("logging.every_steps=2", "rl.skip_even_groups=false")
    with engine.saver.folder:
        engine.run()
    lines = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 2, 2, 4, 4, 4]
    assert {line["split"] for line in lines} == {"train"}
    for line in lines:
        others = [line["reward"] - line["advantage"]]
        assert line["reward"] in (0.0, 1.0)
        assert min(abs(others[0] - count / 3) for count in range(4)) < 1e-6
        assert line["prompt"].endswith("=")
        assert isinstance(line["text"], str)


def test_nothing_to_learn_from_is_said_and_ends_the_run(make_rl: MakeRl, capfd: pytest.CaptureFixture[str]) -> None:
    engine = make_rl("training.max_steps=80", "logging.every_steps=100", reward="constant")
    with engine.saver.folder, pytest.raises(NothingToLearnError, match="for 50 steps all answers") as raised:
        engine.run()

    assert raised.value.exit_code == ExitCode.NON_FINITE
    assert engine.state.global_step == MAX_STEPS_WITHOUT_SIGNAL
    said = [line for line in capfd.readouterr().out.splitlines() if "all answers to each prompt" in line]
    assert len(said) == 1
    assert said[0].startswith(f"step {FEW_STEPS_WITHOUT_SIGNAL}: ")


VALUE = ("rl.advantage=value", "rl.value={}")
WORKER = """
import sys
import attrs, torch
from dlm.config import load_config
from dlm.config.rl_section import WeightedReward
from dlm.training.assembly import assemble, build_accelerator

@attrs.frozen
class Parity:
    def score(self, request):
        return torch.tensor([float(sum(item.answer_ids) % 2 == 0) for item in request.items])

run_file, folder, *overrides = sys.argv[1:]
for place, settings in enumerate([overrides[:1], overrides]):
    loaded = load_config(run_file, settings)
    engine = assemble(loaded, build_accelerator(loaded.config))
    rollouts = engine.step.rollouts
    judge = attrs.evolve(rollouts.judge, rewards=(WeightedReward(reward=Parity()),), overlong_is_worthless=False)
    engine.step.rollouts = attrs.evolve(rollouts, judge=judge)
    result = engine.step(next(engine.data.loader.steps()), 3, lambda: None)
    objects = engine.saver.objects
    models = {"policy": objects.model, **({"value": objects.companion.module} if objects.companion else {})}
    named = [(f"{model}.{name}", each) for model in models for name, each in models[model].named_parameters()]
    found = {"gradients": {name: each.grad.clone() for name, each in named}, "figures": dict(result.figures)}
    torch.save(found, f"{folder}/{place}-{engine.accelerator.process_index}.pt")
torch.distributed.destroy_process_group()
"""


def test_two_processes_take_the_same_step(
    make_rl: MakeRl, rl_file: Path, tmp_path: Path, largest_difference: Any
) -> None:
    """The value model too."""
    (tmp_path / "worker.py").write_text(WORKER, encoding="utf-8")
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    command = [*launcher, str(tmp_path / "worker.py"), str(rl_file), str(tmp_path), "training.batch_size=2", *VALUE]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for place, settings in enumerate(((), VALUE)):
        engine = make_rl(*settings)
        expected, gradients = taken(engine)
        gradients = {f"policy.{name}": each for name, each in gradients.items()}
        if (companion := engine.saver.objects.companion) is not None:
            named = companion.module.named_parameters()
            gradients |= {f"value.{name}": each.grad.clone() for name, each in named if each.grad is not None}
        figures = {name: value for name, value in expected.figures.items() if value is not None}
        for rank in range(2):
            found = torch.load(tmp_path / f"{place}-{rank}.pt", weights_only=True)
            assert largest_difference(found["gradients"], gradients) < 1e-5
            found_figures = {name: found["figures"][name] for name in figures}
            assert found_figures == pytest.approx(figures, rel=1e-4)
