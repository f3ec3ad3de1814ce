"""Loss scaling and compilation: what they may change, and what they may not."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from dlm.config import load_config
from dlm.errors import UserInputError
from dlm.training.assembly import assemble, build_accelerator
from dlm.training.checkpoints.manifest import NewFolder
from dlm.training.engine import Engine
from dlm.training.trainer_state import TrainerState


def weights_of(engine: Engine) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in engine.saver.objects.model.named_parameters()}


@pytest.fixture
def fp16_engine(run_file: Path) -> Callable[..., Engine]:
    """A run as it is on a GPU: accelerate has no loss scaler for the CPU, so torch's own is put in its place."""

    def make(init_scale: float = 2.0**10) -> Engine:
        AcceleratorState._reset_state()
        accelerator = Accelerator(cpu=True, mixed_precision="fp16", step_scheduler_with_optimizer=False)
        accelerator.native_amp, accelerator.scaler = True, torch.amp.GradScaler("cpu", init_scale=init_scale)
        return assemble(load_config(run_file), accelerator)

    return make


def test_fp16_is_refused_where_there_is_no_scaler_for_it(run_file: Path) -> None:
    config = load_config(run_file, ["training.mixed_precision=fp16"]).config
    with pytest.raises(UserInputError, match=r"training\.mixed_precision: fp16 .*cpu.*bf16"):
        build_accelerator(config)


def test_fp16_comes_close_to_float32(make_engine, take_step, largest_difference, fp16_engine) -> None:
    expected, gradients = take_step(make_engine())
    result, scaled = take_step(fp16_engine())
    assert 0 < abs(result.sums.loss - expected.sums.loss) < 1e-2 * expected.sums.loss
    assert abs(result.grad_norm - expected.grad_norm) < 2e-2 * expected.grad_norm
    assert largest_difference(scaled, gradients) < 5e-2


def test_an_overflow_that_the_scaler_meets_is_skipped_and_is_no_bad_step(take_step, fp16_engine) -> None:
    engine = fp16_engine(2.0**120)
    before, rate = weights_of(engine), engine.step.learning_rate
    result, _ = take_step(engine)
    assert not result.is_bad
    assert all(torch.equal(before[name], value) for name, value in weights_of(engine).items())
    assert engine.accelerator.scaler.get_scale() == 2.0**119
    assert engine.step.learning_rate < rate
    engine.accelerator.scaler.update(2.0**10)
    result, _ = take_step(engine)
    assert not result.is_bad
    assert any(not torch.equal(before[name], value) for name, value in weights_of(engine).items())
    assert {value.dtype for value in weights_of(engine).values()} == {torch.float32}


def test_a_loss_that_is_not_finite_is_a_bad_step_under_the_scaler_too(take_step, fp16_engine) -> None:
    engine = fp16_engine()
    with torch.no_grad():
        engine.saver.objects.model.get_input_embeddings().weight[5:] = float("nan")
    before = weights_of(engine)
    result, _ = take_step(engine)
    assert result.is_bad
    assert all(torch.equal(before[name].nan_to_num(), value.nan_to_num()) for name, value in weights_of(engine).items())


def test_after_a_step_that_was_not_taken_the_scaler_goes_on_where_it_was(
    take_step, fp16_engine, largest_difference
) -> None:
    engine, undisturbed = fp16_engine(), fp16_engine()
    weight = engine.saver.objects.model.model.norm.weight
    with torch.no_grad():
        weight[0] = float("inf")
    result, _ = take_step(engine)
    with torch.no_grad():
        weight[0] = 1.0
    assert result.is_bad
    assert engine.accelerator.scaler.get_scale() == 2.0**9
    result, gradients = take_step(engine)
    expected, others = take_step(undisturbed)
    assert not result.is_bad
    assert result.sums == expected.sums
    assert largest_difference(gradients, others) < 1e-3


def test_a_checkpoint_keeps_the_scale(take_step, fp16_engine, tmp_path: Path) -> None:
    engine, other = fp16_engine(), fp16_engine()
    take_step(engine)
    engine.accelerator.scaler.update(2.0**7)
    state_folder = tmp_path / "step-1"
    state_folder.mkdir()
    objects = engine.saver.objects
    objects.stage(TrainerState(), keeps=True).write(NewFolder(state_folder), objects)
    take_step(other)
    other.saver.objects.read_checkpoint(state_folder)
    assert other.accelerator.scaler.get_scale() == 2.0**7


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # of the compiler, which asks every tensor
def test_compiled_layers_give_the_loss_and_gradient_of_the_plain_one(
    make_engine, take_step, largest_difference
) -> None:
    if not shutil.which("c++"):
        pytest.skip("torch.compile needs a C++ compiler: apt install g++")
    expected, gradients = take_step(make_engine("model.config.num_hidden_layers=1"))
    engine = make_engine("model.config.num_hidden_layers=1", "training.compile=true")
    result, compiled = take_step(engine)
    assert result.sums.loss == pytest.approx(expected.sums.loss, rel=1e-5)
    assert largest_difference(compiled, gradients) < 1e-4
