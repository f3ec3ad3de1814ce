"""What ``gpu.py`` checks: the tests marked ``gpu``, resumption, shipped run files, flex_attention, precision."""

import filecmp
import json
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gpu
from dlm_plugins.registry import Registry
from gpu_bench import Bench
from gpu_trial import SMALL, TINY, RunFile, build, run_file

MAX_FLEX_LOSS_DIFFERENCE, MAX_FLEX_GRADIENT_DIFFERENCE = 1e-5, 1e-4
MAX_PRECISION_DIFFERENCE = 0.02
"""Of the losses of a small model against float32, relative."""


def run_tests(bench: Bench) -> None:
    """The tests marked ``gpu``."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-W", "default", "-q", "-p", "no:cacheprovider"]
    environment = {**os.environ, "DLM_TEST_DEVICE": bench.device.type}
    done = subprocess.run(
        [*command, str(gpu.ROOT / "tests" / "gpu")], cwd=gpu.ROOT, env=environment, capture_output=True, text=True
    )
    summary = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr.strip()[-300:]
    for failure in re.findall(r"^(?:FAILED|ERROR) .*", done.stdout, re.MULTILINE):
        bench.record(test=failure[:300], holds=False)
    if done.returncode:
        print(done.stdout[-6000:], done.stderr[-2000:], file=sys.stderr)
    bench.record(summary=summary, holds=done.returncode == 0)


def check_flex(bench: Bench) -> None:
    """Loss and gradients under flex_attention against sdpa, float32, packed and padded rows, every bias."""
    shape = bench.shape({**SMALL, "num_hidden_layers": 2}, 2, 200, vocabulary_size=4096)
    # flex_attention does not train on a CPU.
    other = "flex_attention" if bench.device.type == "cuda" else "eager"
    biases = Registry.discover().entries("attention_bias")
    for names in bench.plan([{"bias": entry.name, "attention": other} for entry in biases]):
        with bench.case(**names):
            results = []
            for attention in ("sdpa", other):
                values = run_file(shape, bias=names["bias"], attention=attention)
                values["training"]["block_attention"]["block_length"] = 8  # several in each document
                trial = build(values, shape, documents=2, padding=20)
                batch = trial.batch.micro_batches[0]
                total, sums = trial.step.objective(
                    trial.process(batch, step=0, num_rows=shape.num_rows).to(bench.device)
                )
                (total / sums[1]).backward()
                results.append((float(total.detach() / sums[1]), [each.grad for each in trial.model.parameters()]))
            (loss, expected), (other_loss, gradients) = results
            loss_difference = abs(other_loss / loss - 1)
            difference = max(float((a - b).norm() / b.norm()) for a, b in zip(gradients, expected, strict=True))
            bench.record(
                **names,
                loss=loss,
                loss_difference=loss_difference,
                gradient_difference=difference,
                holds=loss_difference <= MAX_FLEX_LOSS_DIFFERENCE and difference <= MAX_FLEX_GRADIENT_DIFFERENCE,
            )


def check_precision(bench: Bench) -> None:
    """Losses of a small model over some steps in fp16 and bf16, against float32."""
    shape = bench.shape(SMALL, 8, 256, vocabulary_size=4096)
    num_steps = 3 if bench.is_tiny else 30
    expected: list[float] = []
    cases = (("no", "float32"), ("bf16", "float32"), ("fp16", "float32"), ("no", "bfloat16"))
    for names in bench.plan([{"mixed_precision": precision, "dtype": dtype} for precision, dtype in cases]):
        with bench.case(**names):
            values = run_file(shape, precision=names["mixed_precision"])
            values["model"]["dtype"] = names["dtype"]
            values["optim"]["lr"] = 1e-3
            trial = build(values, shape)
            losses = [trial.step(trial.batch, number).sums.loss for number in range(num_steps)]
            expected = expected or losses
            worst = max(abs(ours / theirs - 1) for ours, theirs in zip(losses, expected, strict=True))
            bench.record(
                **names,
                first_loss=losses[0],
                last_loss=losses[-1],
                worst_difference=worst,
                holds=worst <= MAX_PRECISION_DIFFERENCE,
            )


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
    difference = max(abs(ours["loss"] - theirs["loss"]) for ours, theirs in zip(found, reference, strict=True))
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
    environment = {**os.environ, **({"ACCELERATE_USE_CPU": "true"} if device == "cpu" else {})}
    command = [sys.executable, "-m", "dlm", "run", str(gpu.ROOT / "configs" / f"{run}.yaml")]
    done = subprocess.run(
        [*command, *SHORTENED, *shortened], cwd=folder, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        print(done.stdout[-2000:], done.stderr[-4000:], file=sys.stderr)
        said = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        bench.record(run=run, device=device, holds=False, said=f"exit code {done.returncode}: {said[:300]}")
        return None
    lines = (folder / "runs" / run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [line for line in map(json.loads, lines) if line["split"] == "train"]


RESUMED_RUN: RunFile = {
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
    },
    "dataset": {"name": "texts.txt", "max_length": 64},
    "optim": {"name": "adamw", "lr": 1e-3},
    "evaluation": {"fraction": 0.2},
}


def check_resume(bench: Bench) -> None:
    """``dlm run`` to its end, and once more from its checkpoint in the middle: the same weights, byte for byte."""
    plan = bench.plan([{"mixed_precision": precision} for precision in (("no",) if bench.is_tiny else ("no", "bf16"))])
    with ThreadPoolExecutor() as pool:
        for names, found in zip(plan, pool.map(lambda names: resumed(**names), plan), strict=True):
            bench.record(**names, **found)


def resumed(mixed_precision: str) -> dict[str, Any]:
    """Whether the weights of a resumed run are those of the whole one, and what was said where there are none."""
    import yaml

    command = [sys.executable, "-m", "dlm", "run", "run.yaml", f"training.mixed_precision={mixed_precision}"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "run.yaml").write_text(yaml.safe_dump(RESUMED_RUN), encoding="utf-8")
        lines = [f"Row {number} of {number * number} says {number * 7919 % 1000}." for number in range(400)]
        (folder / "texts.txt").write_text("\n\n".join(lines), encoding="utf-8")
        again = ["training.output_dir=again", "training.checkpoint.resume=whole/checkpoints/step-4"]
        for overrides in ([], again):
            done = subprocess.run([*command, *overrides], cwd=folder, capture_output=True, text=True)
            if done.returncode:
                print(done.stdout[-2000:], done.stderr[-4000:], file=sys.stderr)
                said = (done.stderr.strip() or done.stdout.strip() or "nothing was said").splitlines()[-1]
                return {"holds": False, "said": f"exit code {done.returncode}: {said[:300]}"}
        both = [folder / output / "final" / "model.safetensors" for output in ("whole", "again")]
        return {"holds": filecmp.cmp(*both, shallow=False), "said": "-"}
