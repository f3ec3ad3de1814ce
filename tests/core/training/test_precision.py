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
from dlm.training.job import Job
from dlm.training.state import TrainerState


def weights_of(job: Job) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in job.objects.model.named_parameters()}


@pytest.fixture
def fp16_job(run_file: Path) -> Callable[..., Job]:
    """A run as it is on a GPU: accelerate has no loss scaler for the CPU, so torch's own is put in its place."""

    def make(init_scale: float = 2.0**10) -> Job:
        AcceleratorState._reset_state()
        accelerator = Accelerator(cpu=True, mixed_precision="fp16", step_scheduler_with_optimizer=False)
        accelerator.native_amp, accelerator.scaler = True, torch.amp.GradScaler("cpu", init_scale=init_scale)
        return assemble(load_config(run_file), accelerator)

    return make


def test_fp16_is_refused_where_there_is_no_scaler_for_it(run_file: Path) -> None:
    config = load_config(run_file, ["training.mixed_precision=fp16"]).config
    with pytest.raises(UserInputError, match=r"training\.mixed_precision: fp16 .*cpu.*bf16"):
        build_accelerator(config)


def test_fp16_comes_close_to_float32(make_job, take_step, largest_difference, fp16_job) -> None:
    expected, gradients = take_step(make_job())
    result, scaled = take_step(fp16_job())
    assert 0 < abs(result.sums.loss - expected.sums.loss) < 1e-2 * expected.sums.loss
    assert abs(result.grad_norm - expected.grad_norm) < 2e-2 * expected.grad_norm
    assert largest_difference(scaled, gradients) < 5e-2


def test_an_overflow_that_the_scaler_meets_is_skipped_and_is_no_bad_step(take_step, fp16_job) -> None:
    job = fp16_job(2.0**120)
    before, rate = weights_of(job), job.learning_rate()
    result, _ = take_step(job)
    assert not result.is_bad
    assert all(torch.equal(before[name], value) for name, value in weights_of(job).items())
    assert job.accelerator.scaler.get_scale() == 2.0**119
    assert job.learning_rate() < rate
    job.accelerator.scaler.update(2.0**10)
    result, _ = take_step(job)
    assert not result.is_bad
    assert any(not torch.equal(before[name], value) for name, value in weights_of(job).items())
    assert {value.dtype for value in weights_of(job).values()} == {torch.float32}


def test_a_loss_that_is_not_finite_is_a_bad_step_under_the_scaler_too(take_step, fp16_job) -> None:
    job = fp16_job()
    with torch.no_grad():
        job.objects.model.get_input_embeddings().weight[5:] = float("nan")
    before = weights_of(job)
    result, _ = take_step(job)
    assert result.is_bad
    assert all(torch.equal(before[name].nan_to_num(), value.nan_to_num()) for name, value in weights_of(job).items())


def test_after_a_step_that_was_not_taken_the_scaler_goes_on_where_it_was(
    take_step, fp16_job, largest_difference
) -> None:
    job, undisturbed = fp16_job(), fp16_job()
    weight = job.objects.model.model.norm.weight
    with torch.no_grad():
        weight[0] = float("inf")
    result, _ = take_step(job)
    with torch.no_grad():
        weight[0] = 1.0
    assert result.is_bad
    assert job.accelerator.scaler.get_scale() == 2.0**9
    result, gradients = take_step(job)
    expected, others = take_step(undisturbed)
    assert not result.is_bad
    assert result.sums == expected.sums
    assert largest_difference(gradients, others) < 1e-3


def test_a_checkpoint_keeps_the_scale(take_step, fp16_job, tmp_path: Path) -> None:
    job, other = fp16_job(), fp16_job()
    take_step(job)
    job.accelerator.scaler.update(2.0**7)
    state_folder = tmp_path / "step-1"
    state_folder.mkdir()
    job.objects.write_checkpoint(state_folder, TrainerState(), job.objects.collect(keeps=True))
    take_step(other)
    other.objects.read_checkpoint(state_folder)
    assert other.accelerator.scaler.get_scale() == 2.0**7


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # of the compiler about itself
def test_a_compiled_body_gives_the_loss_and_gradient_of_the_plain_one(make_job, take_step, largest_difference) -> None:
    if not shutil.which("c++"):
        pytest.skip("torch.compile needs a C++ compiler: apt install g++")
    expected, gradients = take_step(make_job("model.config.num_hidden_layers=1"))
    job = make_job("model.config.num_hidden_layers=1", "training.compile=true")
    result, compiled = take_step(job)
    assert result.sums.loss == pytest.approx(expected.sums.loss, rel=1e-5)
    assert largest_difference(compiled, gradients) < 1e-4
