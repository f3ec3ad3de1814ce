"""One training step: the same however its rows are split, clipped as torch clips, not taken where it is not finite."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dlm.data.batch import StepBatch

LAST_OF_EPOCH = -1
SPLITS = {
    "two micro-batches": ("training.batch_size=4", "training.gradient_accumulation_steps=2"),
    "four micro-batches": ("training.batch_size=2", "training.gradient_accumulation_steps=4"),
    "row by row": ("training.batch_size=1", "training.gradient_accumulation_steps=8"),
}
ROWS = {
    "packed": (),
    "padded": ("dataset.pack=false",),
    "isolated": ("dataset.isolate_documents=true",),
    "span masking": ("training.noise.mask_contiguous_region_prob=0.5", "dataset.pack=false"),
    "times by token": ("training.noise.t_per=token", "dataset.pack=false"),
    "always cut": ("training.noise.random_length_prob=1.0", "dataset.pack=false"),
    "block diffusion": (
        "training.block_attention.enabled=true",
        "training.block_attention.bias=block_causal",
        "dataset.pack=false",
    ),
}


@pytest.mark.parametrize("rows", list(ROWS))
@pytest.mark.parametrize("epoch_batch", [0, LAST_OF_EPOCH], ids=["full", "short-of-rows"])
def test_any_split_of_a_step_gives_the_same_loss_and_gradient(
    make_engine, take_step, largest_difference, rows: str, epoch_batch: int
) -> None:
    whole = make_engine(*ROWS[rows])
    place = epoch_batch % whole.data.loader.steps_per_epoch
    num_rows = next(whole.data.loader.steps(0, place)).num_rows
    assert (num_rows == 8) == (epoch_batch == 0)
    expected, gradients = take_step(whole, place)
    assert expected.sums.loss > 0
    for split, settings in SPLITS.items():
        engine = make_engine(*ROWS[rows], *settings)
        result, ours = take_step(engine, place)
        assert result.sums.loss == pytest.approx(expected.sums.loss, rel=1e-5), split
        assert result.grad_norm == pytest.approx(expected.grad_norm, rel=1e-5), split
        assert result.sums.corrupted == expected.sums.corrupted
        assert result.sums.rows == expected.sums.rows == num_rows
        assert largest_difference(ours, gradients) < 1e-5, split


WORKER = """
import sys
import torch
from dlm.config import load_config
from dlm.training.assembly import assemble, build_accelerator

run_file, folder, *overrides = sys.argv[1:]
found = {}
for accumulation in (1, 2):
    split = [f"training.batch_size={4 // accumulation}", f"training.gradient_accumulation_steps={accumulation}"]
    loaded = load_config(run_file, [*overrides, *split])
    engine = assemble(loaded, build_accelerator(loaded.config))
    assert engine.accelerator.num_processes == 2
    steps = []
    for place in (0, engine.data.loader.steps_per_epoch - 1):
        result = engine.step(next(engine.data.loader.steps(0, place)), 5)
        parameters = dict(engine.saver.objects.model.named_parameters())
        gradients = {name: parameter.grad.clone() for name, parameter in parameters.items()}
        steps.append({"loss": result.sums.loss, "corrupted": result.sums.corrupted, "gradients": gradients})
    found[accumulation] = {"steps": steps, "parameters": {name: each.detach() for name, each in parameters.items()}}
torch.save(found, f"{folder}/rank-{engine.accelerator.process_index}.pt")
torch.distributed.destroy_process_group()
"""


def launch(folder: Path, *arguments: str) -> None:
    """Run the worker in two processes, as torchrun does. (``accelerate launch`` wants MPI where there is no GPU.)"""
    script = folder / "worker.py"
    script.write_text(WORKER, encoding="utf-8")
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    command = [*launcher, str(script), *arguments]
    result = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stderr[-3000:]


def test_two_processes_give_the_same_loss_and_gradient(
    make_engine, take_step, run_file: Path, tmp_path: Path, largest_difference
) -> None:
    rows = ("dataset.pack=false", "training.noise.mask_contiguous_region_prob=0.3", "optim.lr=1.0e-3")
    alone = make_engine(*rows)
    expected = [take_step(alone, place) for place in (0, alone.data.loader.steps_per_epoch - 1)]
    launch(tmp_path, str(run_file), str(tmp_path), *rows)
    ranks = [torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True) for rank in range(2)]
    for accumulation in (1, 2):
        for found in (rank[accumulation] for rank in ranks):
            for (result, gradients), step in zip(expected, found["steps"], strict=True):
                assert step["loss"] == pytest.approx(result.sums.loss, rel=1e-5)
                assert step["corrupted"] == result.sums.corrupted
                assert largest_difference(step["gradients"], gradients) < 1e-5
        first, second = (rank[accumulation]["parameters"] for rank in ranks)
        for name, parameter in alone.saver.objects.model.named_parameters():
            assert torch.equal(first[name], second[name]), name
            torch.testing.assert_close(first[name], parameter.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("max_norm", [0.05, 1e6])
def test_clipping_is_torch_s(make_engine, take_step, largest_difference, max_norm: float) -> None:
    engine = make_engine()
    free, gradients = take_step(engine)
    norm_before = torch.nn.utils.clip_grad_norm_(engine.saver.objects.model.parameters(), max_norm)
    expected = {name: value.grad.clone() for name, value in engine.saver.objects.model.named_parameters()}
    clipped, ours = take_step(make_engine(f"training.max_grad_norm={max_norm}"))
    assert clipped.grad_norm == pytest.approx(float(norm_before), rel=1e-6)
    assert clipped.grad_norm == pytest.approx(free.grad_norm, rel=1e-6)
    assert largest_difference(ours, expected) < 1e-6
    norm_after = torch.nn.utils.get_total_norm(list(ours.values()))
    assert float(norm_after) == pytest.approx(min(max_norm, free.grad_norm), rel=1e-4)
    assert gradients.keys() == ours.keys()


def test_the_gradient_is_that_of_the_reported_loss(make_engine) -> None:
    """By finite differences, in the direction of the gradient."""
    engine = make_engine("training.gradient_accumulation_steps=2", "training.batch_size=4", "optim.lr=1.0e-30")
    batch = next(engine.data.loader.steps())
    result = engine.step(batch, 0)
    parameters = list(engine.saver.objects.model.parameters())
    direction = [parameter.grad / result.grad_norm for parameter in parameters]
    losses = []
    for shift in (1e-2, -2e-2):
        with torch.no_grad():
            for parameter, change in zip(parameters, direction, strict=True):
                parameter += shift * change
        losses.append(engine.step(batch, 0).sums.loss)
    assert (losses[0] - losses[1]) / 2e-2 == pytest.approx(result.grad_norm, rel=2e-2)


def test_a_step_that_was_prepared_is_the_same_step(make_engine) -> None:
    """Also where another one was prepared."""
    plain, prepared = make_engine(), make_engine()
    first, second = itertools.islice(plain.data.loader.steps(), 2)
    expected = [plain.step(first, 0), plain.step(second, 1)]
    prepared.step.prepare(second, 7)
    seen = [prepared.step(first, 0, lambda: prepared.step.prepare(second, 1)), prepared.step(second, 1)]
    assert seen == expected


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_is_not_taken(make_engine, value: float) -> None:
    engine = make_engine("training.max_grad_norm=1.0")
    batches = engine.data.loader.steps()
    engine.step(next(batches), 0)
    model = engine.saver.objects.model
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    state = {key: {name: each.clone() for name, each in entry.items()} for key, entry in adam_state(engine).items()}
    rate = engine.step.learning_rate
    poisoned = model.model.layers[0].mlp.down_proj.weight
    with torch.no_grad():
        kept = poisoned[0, 0].clone()
        poisoned[0, 0] = value
    result = engine.step(next(batches), 1)
    with torch.no_grad():
        poisoned[0, 0] = kept
    assert result.is_bad
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    for key, entry in adam_state(engine).items():
        assert all(torch.equal(each, state[key][name]) for name, each in entry.items())
    assert engine.step.learning_rate < rate
    following = engine.step(next(batches), 2)
    assert not following.is_bad
    assert any(not torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


@pytest.mark.parametrize("is_finite", [True, False])
def test_the_learning_rate_of_a_step_is_the_one_it_is_taken_with(make_engine, is_finite: bool) -> None:
    engine = make_engine("optim.warmup_steps=3")
    used: list[float] = []
    optimizer = engine.step.optimizer.optimizer
    optimizer.register_step_pre_hook(lambda *_: used.append(optimizer.param_groups[0]["lr"]))
    batches = engine.data.loader.steps()
    reported = [engine.step(next(batches), step).learning_rate for step in range(5)]
    assert reported == used == pytest.approx([0.0, 1e-2 / 3, 2e-2 / 3, 1e-2, 1e-2 * 16 / 17])
    if not is_finite:
        with torch.no_grad():
            engine.saver.objects.model.model.norm.weight[0] = torch.nan
    rate = engine.step.learning_rate
    assert engine.step(next(batches), 5).learning_rate == rate == pytest.approx(1e-2 * 15 / 17)
    assert engine.step.learning_rate < rate


def adam_state(engine) -> dict[int, dict[str, torch.Tensor]]:
    state: dict[int, dict[str, torch.Tensor]] = engine.step.optimizer.state_dict()["state"]
    return state


def test_a_first_step_that_is_not_finite_is_no_warning(make_engine) -> None:
    engine = make_engine()
    with torch.no_grad():
        engine.saver.objects.model.model.norm.weight[0] = torch.nan
    assert engine.step(next(engine.data.loader.steps()), 0).is_bad


def test_a_step_without_anything_to_learn_is_taken(make_engine) -> None:
    engine = make_engine()
    batch = next(engine.data.loader.steps())
    for micro_batch in batch.micro_batches:
        micro_batch.eligible.zero_()
    result = engine.step(batch, 0)
    assert (result.sums.loss, result.grad_norm, result.is_bad) == (0.0, 0.0, False)


def test_gradient_checkpointing_gives_the_same_gradient_bit_for_bit(make_engine, take_step) -> None:
    for bias in ("full", "alternating"):
        blocks = (f"training.block_attention.bias={bias}", "training.block_attention.enabled=true")
        blocks = () if bias == "full" else blocks
        plain, gradients = take_step(make_engine(*blocks))
        engine = make_engine("training.gradient_checkpointing=true", *blocks)
        assert any(getattr(module, "gradient_checkpointing", False) for module in engine.saver.objects.model.modules())
        result, ours = take_step(engine)
        assert result.sums == plain.sums
        assert all(torch.equal(ours[name], gradients[name]) for name in gradients)


def test_bf16_mixed_precision_keeps_float32_weights_and_comes_close(make_engine, take_step, largest_difference) -> None:
    exact, gradients = take_step(make_engine())
    engine = make_engine("training.mixed_precision=bf16")
    result, ours = take_step(engine)
    assert {parameter.dtype for parameter in engine.saver.objects.model.parameters()} == {torch.float32}
    assert 0 < abs(result.sums.loss / exact.sums.loss - 1) < 0.02
    assert largest_difference(ours, gradients) < 0.3
    assert not result.is_bad


@pytest.mark.parametrize("bias", ["block", "block_causal", "alternating"])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_bf16_mixed_precision_follows_masks(make_engine, take_step, bias: str, implementation: str) -> None:
    changes = (
        "dataset.pack=false",
        "training.block_attention.enabled=true",
        f"training.block_attention.bias={bias}",
        f"model.attn_implementation={implementation}",
    )
    exact, _ = take_step(make_engine(*changes))
    result, _ = take_step(make_engine("training.mixed_precision=bf16", *changes))
    assert 0 < abs(result.sums.loss / exact.sums.loss - 1) < 0.02


@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit", "lion8bit"])
def test_every_optimizer_learns(make_engine, optimizer: str) -> None:
    rate = {"adamw": 1e-2, "adamw8bit": 1e-2, "lion8bit": 1e-3}[optimizer]
    engine = make_engine(f"optim={{name: {optimizer}, lr: {rate}, lr_scheduler: constant}}")
    batch = next(engine.data.loader.steps())
    losses = [engine.step(batch, 0).sums.loss for _ in range(12)]
    assert losses[-1] < 0.9 * losses[0]


def test_dropout_is_seeded_by_the_step(make_engine, take_step) -> None:
    options = ("model.config.attention_dropout=0.3",)
    first, _ = take_step(make_engine(*options), step=7)
    torch.manual_seed(1234)
    engine = make_engine(*options)
    torch.rand(17)
    again, _ = take_step(engine, step=7)
    assert again.sums == first.sums
    without, _ = take_step(make_engine(), step=7)
    assert without.sums.loss != first.sums.loss


def test_random_length_is_drawn_for_the_step(make_engine, take_step) -> None:
    result, _ = take_step(make_engine("training.noise.random_length_prob=1.0"), 1, step=5)
    full, _ = take_step(make_engine("training.noise.random_length_prob=0.0"), 1, step=5)
    assert full.sums.real_tokens == 8 * 24
    assert result.sums.real_tokens < 8 * 24
    assert result.sums.real_tokens % 8 == 0
    assert result.sums.normaliser == result.sums.real_tokens


def test_the_loader_leaves_out_micro_steps_of_fillers_only(make_engine) -> None:
    engine = make_engine("training.batch_size=1", "training.gradient_accumulation_steps=8", "dataset.pack=false")
    last: StepBatch = next(engine.data.loader.steps(0, engine.data.loader.steps_per_epoch - 1))
    assert len(last.micro_batches) == last.num_rows < 8
