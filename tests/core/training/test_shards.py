"""Shards that several processes write, and any number reads: models that are sharded here, in gloo groups."""

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from dlm.errors import NonFiniteError
from dlm.training.checkpoints.manifest import NewFolder, verify, write_manifest
from dlm.training.checkpoints.shards import ShardReader, save_shards
from dlm.training.sharding import local_copy, whole


def model() -> nn.Module:
    torch.manual_seed(0)
    # Sizes that two and four processes do not divide, and a tensor with fewer rows than processes.
    return nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3), nn.LayerNorm(3))


def tensors(*, replicate: int = 1, other: bool = False) -> dict[str, Tensor]:
    """The model's tensors, sharded where there is a group, and one that each process holds."""
    made = model()
    if other:
        nn.init.zeros_(made[0].weight)
    if distributed.is_initialized():
        size = distributed.get_world_size()
        mesh = init_device_mesh("cpu", (replicate, size // replicate), mesh_dim_names=("replicate", "shard"))
        fully_shard(made, mesh=mesh if replicate > 1 else mesh["shard"])
    return {**{name: each.detach() for name, each in made.named_parameters()}, "step": torch.tensor(3.0)}


def write(folder: Path, **options: Any) -> None:
    (folder / "weights").mkdir(parents=True, exist_ok=True)
    new, values = NewFolder(folder), tensors(**options)
    group = distributed.group.WORLD if distributed.is_initialized() else None
    local = {name: local_copy(each) for name, each in values.items()}
    save_shards(new, "weights/shard", values, local, group, is_model=True)
    if group is None or distributed.get_rank() == 0:
        known = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert set(new.entries) == known
        write_manifest(folder, new.entries)


def read(folder: Path, **options: Any) -> None:
    reader, targets = ShardReader(folder / "weights"), tensors(**options)
    expected = {name: each.detach() for name, each in model().named_parameters()} | {"step": torch.tensor(3.0)}
    assert {name: each.shape for name, each in reader.tensors().items()} == {
        name: each.shape for name, each in expected.items()
    }
    for each in targets.values():
        (each.to_local() if isinstance(each, DTensor) else each).zero_()
    reader.read(targets)
    assert all(torch.equal(whole(targets[name]), each) for name, each in expected.items())


def fail_on_one(folder: Path) -> None:
    """A number that is not finite, or a disk that is full, on the last process only."""
    values, last = tensors(), distributed.get_rank() == distributed.get_world_size() - 1
    local = {name: local_copy(each) for name, each in values.items()}
    new = NewFolder(folder)
    if last:
        local["0.weight"][0, 0] = torch.inf
    with pytest.raises(NonFiniteError, match=r"0\.weight"):
        save_shards(new, "shard", values, local, distributed.group.WORLD, is_model=True)
    with pytest.raises(FileNotFoundError):
        save_shards(
            NewFolder(folder / "gone" if last else folder),
            "shard",
            values,
            local,
            distributed.group.WORLD,
            is_model=False,
        )


def in_group(action: Callable[..., None], size: int, *arguments: Any, **options: Any) -> None:
    """Run ``action`` in ``size`` forked processes that are a gloo group."""
    meeting = Path(tempfile.mkdtemp()) / "store"  # a port that is free now may not be free later
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_join, args=(meeting, rank, size, action, arguments, options)) for rank in range(size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    assert [process.exitcode for process in processes] == [0] * size


def _join(meeting: Path, rank: int, size: int, action: Callable[..., None], arguments: Any, options: Any) -> None:
    code = 1
    try:
        torch.set_num_threads(1)
        store = distributed.FileStore(str(meeting), size)
        distributed.init_process_group("gloo", store=store, rank=rank, world_size=size)
        action(*arguments, **options)
        distributed.barrier()
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


IN_FRESH_PROCESS = "DLM_TEST_FORKS"


def forking(test: Callable[[Path], None]) -> Callable[[Path, pytest.FixtureRequest], None]:
    """Run a test in a process of its own: a fork of one that other tests gave threads may wait for them for ever."""

    def run(tmp_path: Path, request: pytest.FixtureRequest) -> None:
        if IN_FRESH_PROCESS in os.environ:
            test(tmp_path)
            return
        variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", request.node.nodeid],
            cwd=request.config.rootpath,
            env={**variables, IN_FRESH_PROCESS: "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


@forking
def test_any_number_of_processes_reads_what_any_number_wrote(tmp_path: Path) -> None:
    in_group(write, 2, tmp_path / "two")
    in_group(write, 4, tmp_path / "copies", replicate=2)
    write(tmp_path / "one")
    for name in ("one", "two", "copies"):
        verify(tmp_path / name)
        read(tmp_path / name)
        in_group(read, 2, tmp_path / name)
    in_group(read, 4, tmp_path / "two")
    in_group(read, 4, tmp_path / "two", replicate=2)
    sizes = {name: len(list((tmp_path / name / "weights").iterdir())) for name in ("one", "two", "copies")}
    assert sizes["one"] == 1
    assert sizes["two"] == 2
    files = json.loads((tmp_path / "copies" / "manifest.json").read_text())["files"]
    written = sum(each["size"] for each in files.values())
    assert (
        written < 2 * sum(path.stat().st_size for path in (tmp_path / "one" / "weights").iterdir()) + 4096
    )  # copies once


@forking
def test_the_same_processes_write_the_same_bytes(tmp_path: Path) -> None:
    for name in ("first", "second"):
        in_group(write, 2, tmp_path / name)
    first, second = (json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("first", "second"))
    assert first == second


@forking
def test_what_fails_on_one_fails_on_all(tmp_path: Path) -> None:
    in_group(fail_on_one, 2, tmp_path)
