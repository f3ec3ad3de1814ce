"""What ``gpu.py`` checks of a step: the tests marked ``gpu``, flex_attention against sdpa, precision."""

import os
import re
import subprocess
import sys

import gpu
from dlm_plugins.registry import Registry
from gpu_bench import Bench
from gpu_trial import SMALL, build, run_file

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
