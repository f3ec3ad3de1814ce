"""What ``gpu.py`` checks of ``dlm run``: shipped run files, resumption, several processes (NCCL: DDP, FSDP2)."""

import filecmp
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

import gpu
from gpu_bench import Bench
from gpu_trial import TINY, RunFile

SHIPPED_RUNS = (
    {
        "pretrain": ["training.batch_size=8", "dataset.max_length=32"],
        "rl-start": ["training.batch_size=32"],
    },
    {
        "preference": ["training.batch_size=4"],
        # A reward that a model which has learned next to nothing gets now and then.
        "rl": ["training.batch_size=8", "evaluation.max_rows=16", 'rl.rewards=[{name: pattern, pattern: "[ -~]"}]'],
    },
)
"""Run files in ``configs/`` and how they are shortened: first those that the others take their models from."""
SHORTENED = ["training.max_steps=3", "logging.every_steps=1", "evaluation.sample_prompts=[]"]
MAX_LOSS_DIFFERENCE = 1e-3
"""Of the steps of a shipped run file against the CPU, float32, nats."""


def check_runs(bench: Bench) -> None:
    """``dlm run`` of the shipped run files, three steps each: to their end, and with the losses of the CPU."""
    devices = dict.fromkeys(["cpu", bench.device.type])
    # One will do to try the script: the test suite runs all of the files anyway.
    stages = ({"pretrain": SHIPPED_RUNS[0]["pretrain"]},) if bench.is_tiny else SHIPPED_RUNS
    bench.plan([{"run": run} for stage in stages for run in stage])
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor() as pool:
        for stage in stages:
            logged = {
                (run, device): pool.submit(steps_of, bench, run, shortened, device, Path(name) / device)
                for run, shortened in stage.items()
                for device in devices
            }
            for run in stage:
                compare(bench, run, logged[run, bench.device.type].result(), logged[run, "cpu"].result())


def compare(bench: Bench, run: str, found: list[dict[str, Any]] | None, reference: list[dict[str, Any]] | None) -> None:
    """What a run logged of its steps against what it logged on the CPU; None: it failed, and that is recorded."""
    if found is None or reference is None:
        return
    difference = largest_difference(found, reference)
    bench.record(
        run=run,
        steps=len(found),
        loss=found[-1]["loss"],
        largest_grad_norm=max(line["grad_norm"] for line in found),
        loss_difference=difference,
        # What a run with rewards has written depends on the last digits of the logits.
        holds=run == "rl" or difference <= MAX_LOSS_DIFFERENCE,
    )


def steps_of(bench: Bench, run: str, shortened: list[str], device: str, folder: Path) -> list[dict[str, Any]] | None:
    """What a run logged of its steps on ``device``, in ``folder``, where it finds those before it; None: it failed."""
    folder.mkdir(exist_ok=True)
    place = {"ACCELERATE_USE_CPU": "true"} if device == "cpu" else {}
    failure = failure_of(folder, gpu.ROOT / "configs" / f"{run}.yaml", [*SHORTENED, *shortened], [place])
    if failure is not None:
        bench.record(run=run, device=device, holds=False, said=failure)
        return None
    return steps_in(folder / "runs" / run)


def largest_difference(found: list[dict[str, Any]], reference: list[dict[str, Any]]) -> float:
    """Of the losses of two runs, step by step."""
    return max(abs(ours["loss"] - theirs["loss"]) for ours, theirs in zip(found, reference, strict=True))


def steps_in(output: Path) -> list[dict[str, Any]]:
    """What the run in a folder logged of its steps."""
    lines = (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [line for line in map(json.loads, lines) if line["split"] == "train"]


def failure_of(
    folder: Path, run_file: Path, overrides: Sequence[str], places: Sequence[dict[str, str]] = ({},)
) -> str | None:
    """What ``dlm run`` said last where it failed; None: it did not.

    Args:
        folder: where it runs.
        run_file: of the run.
        overrides: of its keys.
        places: for each process, what its environment has beside.
    """
    command = [sys.executable, "-m", "dlm", "run", str(run_file), *overrides]
    with ExitStack() as stack:
        logs = [stack.enter_context(tempfile.TemporaryFile("w+", errors="replace")) for _ in places]
        processes = [
            subprocess.Popen(command, cwd=folder, env={**os.environ, **place}, stdout=log, stderr=log)
            for place, log in zip(places, logs, strict=True)
        ]
        codes = [process.wait() for process in processes]
        if not any(codes):
            return None
        for log in logs:
            log.seek(0)
        words = [log.read() for log in logs]
    print(*(text[-6000:] for text in words), sep="\n", file=sys.stderr)
    last = [(text.strip().splitlines() or ["nothing was said"])[-1] for text in words]
    return f"exit codes {codes}: {' | '.join(last)[:600]}"


OWN_RUN: RunFile = {
    "model": {
        "config": {**TINY, "hidden_size": 64, "num_hidden_layers": 3, "max_position_embeddings": 128},
        "tokenizer": {"train": {"vocab_size": 300}},
    },
    "training": {
        "output_dir": "whole",
        "max_steps": 8,
        "batch_size": 8,
        "deterministic": True,
        "checkpoint": {"every_steps": 4},
        "parallel": {"timeout_seconds": 40},
    },
    "dataset": {"name": "texts.txt", "max_length": 64},
    "optim": {"name": "adamw", "lr": 1e-3},
    "evaluation": {"fraction": 0.2},
    "logging": {"every_steps": 1},
}


def write_own_run(folder: Path) -> None:
    """A run file, ``run.yaml``, and its texts."""
    import yaml

    (folder / "run.yaml").write_text(yaml.safe_dump(OWN_RUN), encoding="utf-8")
    lines = [f"Row {number} of {number * number} says {number * 7919 % 1000}." for number in range(400)]
    (folder / "texts.txt").write_text("\n\n".join(lines), encoding="utf-8")


def own_failure(folder: Path, output: str, overrides: Sequence[str] = (), num_processes: int = 1) -> str | None:
    """As :func:`failure_of`, of the run that :func:`write_own_run` has written, by one process or several."""
    return failure_of(folder, folder / "run.yaml", [f"training.output_dir={output}", *overrides], places(num_processes))


def places(num_processes: int) -> list[dict[str, str]]:
    """What a launcher tells each process: a GPU of its own, or one for all, where NCCL has to be told that it may."""
    if num_processes == 1:
        return [{}]
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    has_one_each = torch.cuda.device_count() >= num_processes
    shared = {
        "WORLD_SIZE": str(num_processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "NCCL_MULTI_RANK_GPU_ENABLE": "1",  # NCCL 2.30
    }
    return [
        {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank if has_one_each else 0)} for rank in range(num_processes)
    ]


def weights_are_equal(folder: Path, *outputs: str) -> bool:
    """Whether two runs ended with the same weights, byte for byte."""
    first, second = (folder / output / "final" / "model.safetensors" for output in outputs)
    return filecmp.cmp(first, second, shallow=False)


def check_resume(bench: Bench) -> None:
    """``dlm run`` to its end, and once more from its checkpoint in the middle: the same weights, byte for byte."""
    plan = bench.plan([{"mixed_precision": precision} for precision in (("no",) if bench.is_tiny else ("no", "bf16"))])
    with ThreadPoolExecutor() as pool:
        for names, found in zip(plan, pool.map(lambda names: resumed(**names), plan), strict=True):
            bench.record(**names, **found)


def resumed(mixed_precision: str) -> dict[str, Any]:
    """Whether the weights of a resumed run are those of the whole one, and what was said where there are none."""
    precision = f"training.mixed_precision={mixed_precision}"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_own_run(folder)
        for output, resume in (("whole", None), ("again", "whole/checkpoints/step-4")):
            overrides = [precision, *([f"training.checkpoint.resume={resume}"] if resume else [])]
            if failure := own_failure(folder, output, overrides):
                return {"holds": False, "said": failure}
        return {"holds": weights_are_equal(folder, "whole", "again"), "said": "-"}


SHARED = {
    "sharded": ["training.parallel.shard=2"],
    "copies": ["training.parallel.shard=1", "training.parallel.replicate=2"],
}
"""How two processes share the model."""
MAX_SHARED_DIFFERENCE = 1e-5
"""Of the losses of two processes against those of one, float32, nats."""


def check_processes(bench: Bench) -> None:
    """``dlm run`` by two processes against one; sharded, also resumed from its checkpoint: the same bytes."""
    plan = bench.plan([{"processes": name} for name in (["sharded"] if bench.is_tiny else SHARED)])
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor() as pool:
        folder = Path(name)
        write_own_run(folder)
        alone = pool.submit(own_failure, folder, "alone", ["training.batch_size=16"])
        together = [pool.submit(own_failure, folder, each["processes"], SHARED[each["processes"]], 2) for each in plan]
        for names, running in zip(plan, together, strict=True):
            how = names["processes"]
            failure = alone.result() or running.result()
            if failure is None and how == "sharded":
                resume = "training.checkpoint.resume=sharded/checkpoints/step-4"
                failure = own_failure(folder, "again", [*SHARED[how], resume], 2)
            bench.record(**names, **(shared(folder, how) if failure is None else refused_or_failed(failure)))


def shared(folder: Path, how: str) -> dict[str, Any]:
    """How the losses of two processes differ from those of one, and whether they went on as they would have."""
    ours, alone = (steps_in(folder / output) for output in (how, "alone"))
    difference = largest_difference(ours, alone)
    resumes = weights_are_equal(folder, "sharded", "again") if how == "sharded" else None
    return {
        "loss_difference": difference,
        "resumed_is_equal": resumes,
        "holds": difference <= MAX_SHARED_DIFFERENCE and resumes is not False,
    }


def refused_or_failed(failure: str) -> dict[str, Any]:
    """NCCL before 2.30 has no two processes on one card, and that is no failure."""
    return {"refused": failure} if "Duplicate GPU" in failure else {"holds": False, "said": failure}
