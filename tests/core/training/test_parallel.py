"""Meshes that fit the processes, and what becomes of a launcher's own ideas of sharding."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from dlm.config.run_config import ParallelConfig
from dlm.errors import UserInputError
from dlm.training import parallel as parallel_module
from dlm.training.parallel import bytes_gathered, check_mesh, check_rollouts, refuse_foreign_sharding


@pytest.mark.parametrize(
    ("parallel", "num_processes"),
    [
        (ParallelConfig(), 1),
        (ParallelConfig(), 6),
        (ParallelConfig(replicate=2), 6),
        (ParallelConfig(shard=1), 1),
        (ParallelConfig(shard=4), 4),
        (ParallelConfig(shard=4, replicate=2), 8),
        (ParallelConfig(shard=1, replicate=8), 8),
    ],
)
def test_shards_and_copies_make_up_the_processes(parallel: ParallelConfig, num_processes: int) -> None:
    check_mesh(parallel, num_processes)


@pytest.mark.parametrize(
    ("parallel", "num_processes", "message"),
    [
        (ParallelConfig(shard=3), 4, "shard 3 x replicate 1 needs 3 processes, and there are 4"),
        (ParallelConfig(shard=2, replicate=2), 2, "needs 4 processes, and there are 2"),
        (ParallelConfig(shard=2), 1, "needs 2 processes, and there is 1"),
        (ParallelConfig(shard=1), 2, "needs 1 processes, and there are 2"),
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
