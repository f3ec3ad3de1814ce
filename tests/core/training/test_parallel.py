"""Meshes that fit the processes, and what becomes of a launcher's own ideas of sharding."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from dlm.config import load_config
from dlm.config.run_config import ParallelConfig
from dlm.diffusion.objective import DiffusionObjective
from dlm.errors import UserInputError
from dlm.training import parallel as parallel_module
from dlm.training.assembly import build_accelerator
from dlm.training.parallel import Plan, bytes_gathered, check_mesh, check_rollouts, make_plan, refuse_foreign_sharding
from dlm.training.processes import check_launch_settings


@pytest.mark.parametrize(
    ("parallel", "num_processes"),
    [
        (ParallelConfig(), 1),
        (ParallelConfig(), 6),
        (ParallelConfig(replicate=2), 6),
        (ParallelConfig(shard=1), 1),
        (ParallelConfig(shard=1), 8),
        (ParallelConfig(shard=4), 4),
        (ParallelConfig(shard=4, replicate=2), 8),
        (ParallelConfig(shard=1, replicate=8), 8),
    ],
)
def test_shards_and_copies_make_up_the_processes(parallel: ParallelConfig, num_processes: int) -> None:
    check_mesh(parallel, num_processes)


def test_processes_that_share_nothing_are_as_many_copies() -> None:
    processes: Any = SimpleNamespace(num_processes=8)
    assert make_plan(ParallelConfig(shard=1), processes, lambda: 0) == Plan(shard=1, replicate=8)


@pytest.mark.parametrize(
    ("parallel", "num_processes", "message"),
    [
        (ParallelConfig(shard=3), 4, "shard 3 x replicate 1 needs 3 processes, and there are 4"),
        (ParallelConfig(shard=2, replicate=2), 2, "needs 4 processes, and there are 2"),
        (ParallelConfig(shard=2), 1, "needs 2 processes, and there is 1"),
        (ParallelConfig(shard=1, replicate=2), 4, "shard 1 x replicate 2 needs 2 processes, and there are 4"),
        (ParallelConfig(replicate=4), 6, "4 copies cannot share 6 processes"),
    ],
)
def test_a_mesh_that_leaves_processes_over_is_refused(
    parallel: ParallelConfig, num_processes: int, message: str
) -> None:
    with pytest.raises(UserInputError, match=message):
        check_mesh(parallel, num_processes)


@pytest.mark.parametrize(
    ("variable", "what"),
    [
        ("ACCELERATE_USE_FSDP", "shard the model"),
        ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed"),
        ("ACCELERATE_USE_MEGATRON_LM", "Megatron"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "TP"),
    ],
)
def test_a_launcher_that_would_shard_is_told_the_equivalent(
    monkeypatch: pytest.MonkeyPatch, variable: str, what: str
) -> None:
    refuse_foreign_sharding()
    for name, value in ((variable, "true"), ("WORLD_SIZE", "16"), ("LOCAL_WORLD_SIZE", "8")):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserInputError, match=what) as refused:
        refuse_foreign_sharding()
    assert "training.parallel: {shard: 16}, or {shard: 8, replicate: 2} for a copy on each host" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_weights_that_rollouts_gather_have_to_fit_in_the_precision_they_compute_in(monkeypatch: Any) -> None:
    with torch.device("meta"):
        model = nn.Linear(1 << 16, 1 << 18, bias=False)  # 64 GiB in float32, 32 in bf16
    assert (bytes_gathered(model, "no"), bytes_gathered(model, "bf16")) == (64 << 30, 32 << 30)
    monkeypatch.setattr(parallel_module, "_device_bytes", lambda accelerator: 80 << 30)
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    check_rollouts(model, SimpleNamespace(device=gpu, mixed_precision="bf16"))  # type: ignore[arg-type]
    check_rollouts(model, SimpleNamespace(device=cpu, mixed_precision="no"))  # type: ignore[arg-type]
    with pytest.raises(UserInputError, match=r"samples with all weights, 64\.0 GiB, of 80\.0 GiB"):
        check_rollouts(model, SimpleNamespace(device=gpu, mixed_precision="no"))  # type: ignore[arg-type]


TOLD = {
    "mixed_precision": ("ACCELERATE_MIXED_PRECISION", "bf16", "bf16"),
    "gradient_accumulation_steps": ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "4"),
    "compile": ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "true"),
}


@pytest.mark.parametrize("key", list(TOLD))
def test_a_launcher_that_was_told_otherwise_than_the_run_file_is_refused(
    monkeypatch: pytest.MonkeyPatch, run_file: Any, key: str
) -> None:
    variable, value, same = TOLD[key]
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserInputError, match=rf"^training\.{key}: accelerate was told {same}, .*run file says"):
        build_accelerator(load_config(run_file).config)
    check_launch_settings(load_config(run_file, [f"training.{key}={same}"]).config.training)


def test_what_a_launcher_says_by_default_is_nothing(monkeypatch: pytest.MonkeyPatch, run_file: Any) -> None:
    for variable, idle in ((TOLD["mixed_precision"][0], "no"), (TOLD["compile"][0], "NO")):
        monkeypatch.setenv(variable, idle)
    changes = ["training.mixed_precision=bf16", "training.compile=true", "training.gradient_accumulation_steps=2"]
    check_launch_settings(load_config(run_file, changes).config.training)


def test_what_is_accumulated_here_is_not_once_more_by_accelerate(
    monkeypatch: pytest.MonkeyPatch, make_engine: Any, take_step: Any, largest_difference: Any
) -> None:
    same = ("training.gradient_accumulation_steps=4", "training.batch_size=2")
    expected, gradients = take_step(make_engine(*same))
    monkeypatch.setenv(TOLD["gradient_accumulation_steps"][0], "4")
    result, ours = take_step(make_engine(*same))
    assert (result.sums, result.grad_norm) == (expected.sums, expected.grad_norm)
    assert largest_difference(ours, gradients) == 0


def test_layers_are_compiled_here_and_nothing_by_accelerate(monkeypatch: pytest.MonkeyPatch, make_engine: Any) -> None:
    monkeypatch.setenv(TOLD["compile"][0], "EAGER")  # of the whole objective, it cannot be
    engine = make_engine("training.compile=true")
    assert isinstance(engine.step.objective, DiffusionObjective)
