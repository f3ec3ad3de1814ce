"""The parts of ``gpu.py``, one a process: ``echo go | python gpu_parts.py PART OUT DEVICE [--tiny]``."""

import argparse
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import dlm
from dlm.config.sampling_settings import APPROXIMATE_CACHES
from dlm.model.from_scratch import model_from_config
from dlm.sampling.cache_choice import CACHES
from dlm.training.trainer_state import peak_memory
from dlm_plugins.registry import Registry
from gpu_bench import Bench
from gpu_checks import check_flex, check_precision, run_tests
from gpu_runs import check_processes, check_resume, check_runs
from gpu_trial import (
    BLOCK_LENGTH,
    QWEN3_06B,
    QWEN3_8B_SLICE,
    Shape,
    Trial,
    build,
    plain_loss,
    run_file,
    work_of,
)

DENSE_BF16_FLOPS = {"H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Products of bf16 matrices a second, without sparsity, as the maker says."""


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
    ("block_causal", "sdpa", False),
    ("full", "sdpa", True),
    ("block_causal", "flex_attention", True),
    ("block_causal", "flex_attention", False),
    ("block_causal", "sdpa", True),
)
"""Bias, attention, compiled or not: what takes seconds, what ``auto`` takes, the rest. Where nothing is hidden, flex
skips nothing."""


def measure_steps(bench: Bench, shape: Shape) -> None:
    """Time, tokens a second, MFU and peak memory of a step, bf16 over float32 weights."""
    num_timed = 2 if bench.is_tiny else 8
    ours = (dict(zip(("bias", "attention", "compiled"), case, strict=True)) for case in STEP_CASES)
    guideline, *others = bench.plan([{"loop": "guideline"}, *({"loop": "dlm", **case} for case in ours)])
    with bench.case(**guideline):
        measure_guideline(bench, shape, num_timed)
    for names in others:
        with bench.case(**names):
            measure_step(bench, shape, names, num_timed)


def measure_step(bench: Bench, shape: Shape, names: dict[str, Any], num_timed: int) -> None:
    """One of ours; what is made here is gone before the next one is measured."""
    compiles = names["compiled"]
    values = run_file(shape, bias=names["bias"], attention=names["attention"], precision="bf16", compiles=compiles)
    trial = build(values, shape)
    work = work_of(trial, shape)
    first, seconds = bench.times(lambda number: trial.step(trial.batch, number), 2, num_timed)
    figures = figures_of(bench, shape, work, first, seconds)
    bench.record(**names, waits=waits_of(trial, bench.device), **figures)


def measure_optimizers(bench: Bench) -> None:
    """Memory and time of each optimizer that is installed, and which class it really was."""
    shape = bench.shape(QWEN3_06B, 2, 512)
    for names in bench.plan([{"optimizer": entry.name} for entry in Registry.discover().entries("optimizer")]):
        with bench.case(**names):
            measure_optimizer(bench, shape, names["optimizer"])


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

    # Exact ones first, each under every bias; "auto" is one of them.
    caches = sorted((cache for cache in CACHES if cache != "auto"), key=lambda cache: cache in APPROXIMATE_CACHES)
    biases = ("full", "block", "block_causal")
    for names in bench.plan([{"bias": bias, "cache": cache} for cache in caches for bias in biases]):
        with bench.case(**names):
            sample(**names, num_steps=gen_length // block_length)
            _, seconds = bench.times(lambda _: sample(**names, num_steps=steps), 0, 1)  # noqa: B023
            bench.record(
                **names,
                exact=names["cache"] not in APPROXIMATE_CACHES,
                rows=shape.num_rows,
                steps=steps,
                seconds=seconds,
                tokens_per_second=shape.num_rows * gen_length / seconds,
            )


PARTS: dict[str, Callable[[Bench], None]] = {
    "tests": run_tests,
    "resume": check_resume,
    "runs": check_runs,
    "processes": check_processes,
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
    if not sys.stdin.readline():
        return  # nobody is left to let it go
    bench = Bench(part=arguments.part, out=arguments.out, device=torch.device(arguments.device), is_tiny=arguments.tiny)
    PARTS[arguments.part](bench)


if __name__ == "__main__":
    main()
