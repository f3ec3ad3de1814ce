"""The parts of ``gpu.py``, one a process: ``python gpu_parts.py PART OUT DEVICE [--tiny]``."""

import argparse
import contextlib
import filecmp
import gc
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import torch

import dlm
import gpu
from dlm.config.sampling_settings import APPROXIMATE_CACHES
from dlm.errors import DlmError
from dlm.model.from_scratch import model_from_config
from dlm.sampling.cache_choice import CACHES
from dlm.training.trainer_state import peak_memory
from dlm_plugins.registry import Registry
from gpu_trial import (
    BLOCK_LENGTH,
    QWEN3_06B,
    QWEN3_8B_SLICE,
    SMALL,
    TINY,
    RunFile,
    Shape,
    Trial,
    build,
    plain_loss,
    run_file,
    work_of,
)

DENSE_BF16_FLOPS = {"H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Products of bf16 matrices a second, without sparsity, as the maker says."""
MAX_FLEX_LOSS_DIFFERENCE, MAX_FLEX_GRADIENT_DIFFERENCE = 1e-5, 1e-4
MAX_PRECISION_DIFFERENCE = 0.02
"""Of the losses of a small model against float32, relative."""


@attrs.frozen(kw_only=True)
class Bench:
    """Where a part runs, and where its figures go."""

    part: str
    out: Path
    device: torch.device
    is_tiny: bool

    def record(self, **figures: Any) -> None:
        gpu.record(self.out, part=self.part, **figures)

    def shape(self, config: dict[str, Any], num_rows: int, length: int, vocabulary_size: int = 151_936) -> Shape:
        if self.is_tiny:
            return Shape(config=TINY, num_rows=2, length=64, vocabulary_size=320, mask_id=300)
        return Shape(
            config=config,
            num_rows=num_rows,
            length=length,
            vocabulary_size=vocabulary_size,
            mask_id=min(151_669, vocabulary_size - 1),
        )

    @contextlib.contextmanager
    def case(self, **names: Any) -> Iterator[None]:
        """One case: what the product refuses, and what does not fit, becomes a line; the next one goes on."""
        try:
            yield
        except DlmError as error:
            self.record(**names, refused=" ".join(str(error).split()))
        except RuntimeError as error:  # out of memory, a kernel that is missing
            self.record(**names, error=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
        self.clean_up()

    def clean_up(self) -> None:
        torch._dynamo.reset()
        gc.collect()  # what accelerate prepared refers to itself
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def times(self, call: Callable[[int], Any], num_warmup: int, num_timed: int) -> tuple[float, float]:
        """Seconds of the first call (with what is compiled), and the median of the timed ones."""
        seconds = []
        for number in range(num_warmup + num_timed):
            self.wait()
            started = time.perf_counter()
            call(number)
            self.wait()
            seconds.append(time.perf_counter() - started)
        return seconds[0], statistics.median(seconds[num_warmup:])


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


def waits_of(trial: Trial, device: torch.device) -> int | None:
    """How often the host waits for the device in a step."""
    if device.type != "cuda":
        return None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            trial.step(trial.batch, 0)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    # The mode itself says once a process that it is a prototype.
    return sum("synchroniz" in str(each.message) and "prototype" not in str(each.message) for each in caught)


def figures_of(bench: Bench, shape: Shape, work: float, first: float, seconds: float) -> dict[str, Any]:
    """Speed and memory of a step."""
    name = torch.cuda.get_device_name() if bench.device.type == "cuda" else ""
    peak = next((flops for card, flops in DENSE_BF16_FLOPS.items() if card in name), None)
    return {
        "seconds": seconds,
        "tokens_per_second": shape.num_tokens / seconds,
        "TFLOP": work / 1e12,
        "MFU": None if peak is None else work / seconds / peak,
        "peak_GiB": peak_memory(bench.device) / 2**30,
        "first_seconds": first,
    }


def measure_guideline(bench: Bench, shape: Shape, num_timed: int) -> None:
    """The step that one would write after the text of the guideline."""
    trial = build(run_file(shape, precision="bf16"), shape)
    work = work_of(trial, shape)
    batch = trial.batch.micro_batches[0]

    def step(number: int) -> float:
        trial.model.zero_grad()
        noised = trial.process(batch, step=number, num_rows=shape.num_rows).to(bench.device)
        with torch.autocast(bench.device.type, torch.bfloat16):
            loss = plain_loss(trial.model, noised)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trial.model.parameters(), 1.0)
        trial.step.optimizer.step()
        return float(loss.detach())

    first, seconds = bench.times(step, 2, num_timed)
    bench.record(
        loop="guideline",
        bias="full",
        attention="sdpa",
        compiled=False,
        waits=None,
        **figures_of(bench, shape, work, first, seconds),
    )


STEP_CASES = (
    ("full", "sdpa", False),
    ("full", "sdpa", True),
    ("block_causal", "flex_attention", True),
    ("block_causal", "flex_attention", False),
    ("block_causal", "sdpa", False),
    ("block_causal", "sdpa", True),
)
"""Bias, attention, compiled or not; what ``auto`` takes comes first. Where nothing is hidden, flex skips nothing."""


def measure_steps(bench: Bench, shape: Shape) -> None:
    """Time, tokens a second, MFU and peak memory of a step, bf16 over float32 weights."""
    num_timed = 2 if bench.is_tiny else 8
    with bench.case(loop="guideline"):
        measure_guideline(bench, shape, num_timed)
    for bias, attention, compiles in STEP_CASES:
        names = {"loop": "dlm", "bias": bias, "attention": attention, "compiled": compiles}
        with bench.case(**names):
            values = run_file(shape, bias=bias, attention=attention, precision="bf16", compiles=compiles)
            trial = build(values, shape)
            work = work_of(trial, shape)
            first, seconds = bench.times(lambda number: trial.step(trial.batch, number), 2, num_timed)  # noqa: B023
            figures = figures_of(bench, shape, work, first, seconds)
            bench.record(**names, waits=waits_of(trial, bench.device), **figures)
        trial = None  # its memory belongs to the next one
        bench.clean_up()


def check_flex(bench: Bench) -> None:
    """Loss and gradients under flex_attention against sdpa, float32, packed and padded rows, every bias."""
    shape = bench.shape({**SMALL, "num_hidden_layers": 2}, 2, 200, vocabulary_size=4096)
    # flex_attention does not train on a CPU.
    other = "flex_attention" if bench.device.type == "cuda" else "eager"
    for entry in Registry.discover().entries("attention_bias"):
        with bench.case(bias=entry.name, attention=other):
            results = []
            for attention in ("sdpa", other):
                values = run_file(shape, bias=entry.name, attention=attention)
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
                bias=entry.name,
                attention=other,
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
    for precision, dtype in cases:
        with bench.case(mixed_precision=precision, dtype=dtype):
            values = run_file(shape, precision=precision)
            values["model"]["dtype"] = dtype
            values["optim"]["lr"] = 1e-3
            trial = build(values, shape)
            losses = [trial.step(trial.batch, number).sums.loss for number in range(num_steps)]
            expected = expected or losses
            worst = max(abs(ours / theirs - 1) for ours, theirs in zip(losses, expected, strict=True))
            bench.record(
                mixed_precision=precision,
                dtype=dtype,
                first_loss=losses[0],
                last_loss=losses[-1],
                worst_difference=worst,
                holds=worst <= MAX_PRECISION_DIFFERENCE,
            )


def measure_optimizers(bench: Bench) -> None:
    """Memory and time of each optimizer that is installed, and which class it really was."""
    shape = bench.shape(QWEN3_06B, 2, 512)
    for entry in Registry.discover().entries("optimizer"):
        with bench.case(optimizer=entry.name):
            measure_optimizer(bench, shape, entry.name)


def measure_optimizer(bench: Bench, shape: Shape, name: str) -> None:
    """One of them; what is made here is gone before the next one is measured."""
    values = run_file(shape, precision="bf16")
    values["optim"]["name"] = name
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trial = build(values, shape)
        _, seconds = bench.times(lambda number: trial.step(trial.batch, number), 2, 4)
    inner = trial.step.optimizer.optimizer
    tensors = [value for state in inner.state.values() for value in state.values() if torch.is_tensor(value)]
    bench.record(
        optimizer=name,
        really=f"{type(inner).__module__.split('.')[0]}.{type(inner).__name__}",
        state_GiB=sum(tensor.nbytes for tensor in tensors) / 2**30,
        seconds=seconds,
        peak_GiB=peak_memory(bench.device) / 2**30,
        fell_back=any("takes the place" in str(each.message) for each in caught),
    )


def measure_sampling(bench: Bench) -> None:
    """Tokens a second with each cache, under each bias where it is exact (or says that it is not)."""
    shape = bench.shape({**QWEN3_06B, "initializer_range": 0.06}, 4, 256)
    gen_length, steps, block_length = (16, 8, 8) if bench.is_tiny else (128, 32, BLOCK_LENGTH)
    torch.manual_seed(0)
    with torch.device(bench.device):
        model = model_from_config(
            {**shape.config, "max_position_embeddings": 4096},
            vocab_size=shape.vocabulary_size,
            mask_token_id=shape.mask_id,
            dtype=torch.bfloat16,
        )
    prompt = torch.randint(shape.mask_id, (shape.num_rows, shape.length), device=bench.device)

    def sample(bias: str, cache: str, num_steps: int) -> dlm.GenerateOutput:
        return dlm.generate(
            model,
            prompt,
            gen_length=gen_length,
            steps=num_steps,
            block_length=block_length,
            attention_bias=bias,
            cache=cache,
        )

    for bias in ("full", "block", "block_causal"):
        for cache in CACHES:
            if cache == "auto":
                continue
            with bench.case(bias=bias, cache=cache), contextlib.suppress(dlm.errors.UserInputError):
                sample(bias, cache, gen_length // block_length)
                _, seconds = bench.times(lambda _: sample(bias, cache, steps), 0, 1)  # noqa: B023
                bench.record(
                    bias=bias,
                    cache=cache,
                    exact=cache not in APPROXIMATE_CACHES,
                    rows=shape.num_rows,
                    steps=steps,
                    seconds=seconds,
                    tokens_per_second=shape.num_rows * gen_length / seconds,
                )


SHIPPED_RUNS = {
    "pretrain": ["training.batch_size=8", "dataset.max_length=32"],
    "rl-start": ["training.batch_size=32"],
    "preference": ["training.batch_size=4"],
    # A reward that a model which has learned next to nothing gets now and then.
    "rl": ["training.batch_size=8", "evaluation.max_rows=16", 'rl.rewards=[{name: pattern, pattern: "[ -~]"}]'],
}
"""Run files in ``configs/``, in an order in which the later ones find their models; and how they are shortened."""
SHORTENED = ["training.max_steps=3", "logging.every_steps=1", "evaluation.sample_prompts=[]"]
MAX_LOSS_DIFFERENCE = 1e-3
"""Of the steps of a shipped run file against the CPU, float32, nats."""


def check_runs(bench: Bench) -> None:
    """``dlm run`` of the shipped run files, three steps each: to their end, and with the losses of the CPU."""
    devices = ["cpu"] if bench.device.type == "cpu" else ["cpu", bench.device.type]
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor() as pool:
        folders = [Path(name) / each for each in devices]
        expected, *others = pool.map(lambda device, folder: shipped_runs(bench, device, folder), devices, folders)
    for run, reference in expected.items():
        found = others[0].get(run) if others else reference
        if found is None:
            continue  # it failed, and that is recorded
        pairs = zip(found, reference, strict=True)
        difference = max(abs(ours["loss"] - theirs["loss"]) for ours, theirs in pairs)
        bench.record(
            run=run,
            steps=len(found),
            loss=found[-1]["loss"],
            largest_grad_norm=max(line["grad_norm"] for line in found),
            loss_difference=difference,
            # What a run with rewards has written depends on the last digits of the logits.
            holds=run == "rl" or difference <= MAX_LOSS_DIFFERENCE,
        )


def shipped_runs(bench: Bench, device: str, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """What each run logged of its steps on ``device``, one run after the other in ``folder``."""
    folder.mkdir()
    environment = {**os.environ, **({"ACCELERATE_USE_CPU": "true"} if device == "cpu" else {})}
    steps = {}
    # One will do to try the script: the test suite runs all of the files anyway.
    for run, overrides in list(SHIPPED_RUNS.items())[: 1 if bench.is_tiny else None]:
        command = [sys.executable, "-m", "dlm", "run", str(gpu.ROOT / "configs" / f"{run}.yaml")]
        done = subprocess.run(
            [*command, *SHORTENED, *overrides], cwd=folder, env=environment, capture_output=True, text=True
        )
        if done.returncode:
            print(done.stdout[-2000:], done.stderr[-4000:], file=sys.stderr)
            said = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
            bench.record(run=run, device=device, holds=False, said=f"exit code {done.returncode}: {said[:300]}")
            continue
        lines = (folder / "runs" / run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        steps[run] = [line for line in map(json.loads, lines) if line["split"] == "train"]
    return steps


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
    import yaml

    command = [sys.executable, "-m", "dlm", "run", "run.yaml"]
    for precision in ("no",) if bench.is_tiny else ("no", "bf16"):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "run.yaml").write_text(yaml.safe_dump(RESUMED_RUN), encoding="utf-8")
            lines = [f"Row {number} of {number * number} says {number * 7919 % 1000}." for number in range(400)]
            (folder / "texts.txt").write_text("\n\n".join(lines), encoding="utf-8")
            resumed = ["training.output_dir=again", "training.checkpoint.resume=whole/checkpoints/step-4"]
            for overrides in ([], resumed):
                wanted = [f"training.mixed_precision={precision}", *overrides]
                done = subprocess.run([*command, *wanted], cwd=folder, capture_output=True, text=True)
                if done.returncode:
                    break
            if done.returncode:
                print(done.stdout[-2000:], done.stderr[-4000:], file=sys.stderr)
                said = (done.stderr.strip() or done.stdout.strip() or "nothing was said").splitlines()[-1]
                bench.record(mixed_precision=precision, holds=False, said=f"exit code {done.returncode}: {said[:300]}")
                continue
            both = [folder / output / "final" / "model.safetensors" for output in ("whole", "again")]
            bench.record(mixed_precision=precision, holds=filecmp.cmp(*both, shallow=False), said="-")


PARTS: dict[str, Callable[[Bench], None]] = {
    "tests": run_tests,
    "resume": check_resume,
    "runs": check_runs,
    "flex": check_flex,
    "precision": check_precision,
    "step-0.6b": lambda bench: measure_steps(bench, bench.shape(QWEN3_06B, 8, 2048)),
    "step-8b": lambda bench: measure_steps(bench, bench.shape(QWEN3_8B_SLICE, 2, 4096)),
    "sampling": measure_sampling,
    "optimizers": measure_optimizers,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("out", type=Path)
    parser.add_argument("device")
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    bench = Bench(part=arguments.part, out=arguments.out, device=torch.device(arguments.device), is_tiny=arguments.tiny)
    PARTS[arguments.part](bench)


if __name__ == "__main__":
    main()
