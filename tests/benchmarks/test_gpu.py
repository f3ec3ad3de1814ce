"""The script for a GPU runs here on tiny shapes, so that no line of it meets a GPU untried."""

import gc
import importlib
import json
import os
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
MEASURED = {"guideline", "dlm"}


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    import torch._dynamo  # seconds, which only these tests need

    # A compiler takes minutes, however tiny the shapes are.
    with torch._dynamo.config.patch(disable=True):
        yield importlib.import_module("gpu_parts")
    for name in ("gpu", "gpu_bench", "gpu_checks", "gpu_parts", "gpu_runs", "gpu_trial"):
        sys.modules.pop(name, None)


def lines_of(parts: Any, name: str, folder: Path) -> list[dict[str, Any]]:
    out = folder / "figures.jsonl"
    parts.PARTS[name](parts.Bench(part=name, out=out, device=torch.device("cpu"), is_tiny=True))
    return gpu_lines(out)


def gpu_lines(out: Path) -> list[dict[str, Any]]:
    """Without their times."""
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    times = [line.pop("at") for line in lines]
    assert times == sorted(times)
    return lines


def test_steps_are_measured_beside_the_guideline(parts: Any, tmp_path: Path) -> None:
    lines = lines_of(parts, "step-0.6b", tmp_path)
    assert not [line for line in lines if "error" in line]
    measured = [line for line in lines if "seconds" in line]
    assert {line["loop"] for line in measured} == MEASURED
    assert {(line["bias"], line["compiled"]) for line in measured if line["loop"] == "dlm"} == {
        (bias, compiled) for bias in ("full", "block_causal") for compiled in (False, True)
    }
    assert all(line["tokens_per_second"] > 0 and line["TFLOP"] > 0 for line in measured)


@pytest.mark.parametrize("name", ["flex", "precision", "optimizers", "runs", "processes"])
def test_parts_run_without_an_error_and_have_a_line_for_each_case(parts: Any, name: str, tmp_path: Path) -> None:
    lines = lines_of(parts, name, tmp_path)
    assert lines[0]["planned"]
    assert failed_or_missing(lines) == []


def failed_or_missing(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines of what failed, and the announced cases that have no line."""
    announced, *found = lines
    failed = [line for line in found if "error" in line or line.get("holds") is False]
    return failed + [case for case in announced["planned"] if not any(case.items() <= line.items() for line in found)]


def test_every_bias_is_sampled_with_exact_caches_first(parts: Any, tmp_path: Path) -> None:
    lines = lines_of(parts, "sampling", tmp_path)
    assert failed_or_missing(lines) == []
    assert [case["cache"] for case in lines[0]["planned"][:3]] == ["off"] * 3
    exact = [line["exact"] for line in lines if "exact" in line]
    assert exact == sorted(exact, reverse=True)
    assert {(line["bias"], line["cache"]) for line in lines if "would not be exact" in line.get("refused", "")} == {
        ("full", "prompt"),
        ("full", "side_by_side"),
        ("block_causal", "side_by_side"),
    }


def test_the_work_of_a_step_is_that_of_the_formula(parts: Any) -> None:
    """Six operations a weight and position, twelve a visible pair, head and layer for each number of a head."""
    config, bench = (
        importlib.import_module("gpu_trial").TINY,
        parts.Bench(part="", out=Path(), device=torch.device("cpu"), is_tiny=True),
    )
    shape = bench.shape({}, 0, 0)
    trial = parts.build(parts.run_file(shape), shape)
    hidden, heads, groups, size = 32, 2, 1, 16
    linear = 2 * hidden * heads * size + 2 * hidden * groups * size + 3 * hidden * config["intermediate_size"]
    tokens, layers = shape.num_tokens, 2
    head = (
        parts.work_of(trial, shape) - 6 * tokens * layers * linear - 12 * tokens * shape.length * layers * heads * size
    )
    scored = head / (6 * hidden * shape.vocabulary_size)
    assert scored == int(scored)
    assert 0 < scored < tokens


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--out", str(folder / "out.jsonl"), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_resumed_run_is_compared_by_the_script(tmp_path: Path) -> None:
    """Real processes: the script, its part, and ``dlm run`` twice."""
    done = run(tmp_path, "--device", "cpu", "--tiny", "--only", "resume", "--seconds", "1200")
    assert done.returncode == 0, done.stderr
    machine, planned, resume = gpu_lines(tmp_path / "out.jsonl")
    assert planned["planned"] == [{"mixed_precision": "no"}]
    assert machine["torch"] == torch.__version__
    assert resume["holds"] is True
    assert "| no | yes |" in done.stdout


def test_what_does_not_fit_is_a_figure_too_and_no_failure(parts: Any, tmp_path: Path) -> None:
    bench = parts.Bench(part="step-0.6b", out=tmp_path / "out.jsonl", device=torch.device("cpu"), is_tiny=True)
    with bench.case(bias="block_causal"):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
    with bench.case(bias="full"):
        raise RuntimeError("no kernel image is available")
    large, broken = gpu_lines(bench.out)
    assert large == {"part": "step-0.6b", "bias": "block_causal", "refused": "out of memory"}
    assert "no kernel image" in broken["error"]


def test_what_a_case_that_failed_had_made_is_gone_before_the_next_one(parts: Any, tmp_path: Path) -> None:
    """Its exception holds it while it is dealt with, and what accelerate prepared refers to itself."""
    bench = parts.Bench(part="step-0.6b", out=tmp_path / "out.jsonl", device=torch.device("cpu"), is_tiny=True)
    made: list[weakref.ref[torch.nn.Module]] = []

    def fail() -> None:
        model = torch.nn.Module()
        model.prepared = lambda: model
        made.append(weakref.ref(model))
        raise TypeError("a compiler's own kind of error")

    gc.disable()  # what is made here may not go by chance
    try:
        with bench.case(bias="full"):
            fail()
        with bench.case(bias="block"):
            assert made[0]() is None
    finally:
        gc.enable()
    (line,) = gpu_lines(bench.out)
    assert line == {"part": "step-0.6b", "bias": "full", "error": "TypeError: a compiler's own kind of error"}


WAITS = """
import sys, time
from pathlib import Path
sys.path.insert(0, {folder!r})
import gpu
_, part, out, *_ = sys.argv
gpu.record(Path(out), part=part, planned=[{{"case": 1}}, {{"case": 2}}, {{"case": 3}}])
sys.stdin.readline()
for case in {done}:
    gpu.record(Path(out), part=part, case=case, seconds=0.5)
{end}
"""
"""A part that has had some of its cases."""


CUT_OFF = "cut off after 12 s; run it with --only"
NO_TIME = "no time was left; run it with --only"


@pytest.mark.parametrize(
    ("end", "done", "said"),
    [
        ("time.sleep(600)", [1], [("left_out", CUT_OFF), ("left_out", NO_TIME)]),
        ("time.sleep(600)", [1, 2, 3], []),  # it has not ended in time, but there is nothing to say of it
        ("sys.exit('no driver')", [1], [("error", "exit code 1: no driver"), ("error", "the part had ended before")]),
    ],
)
def test_each_case_that_was_not_reached_has_a_line(
    parts: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    end: str,
    done: list[int],
    said: list[tuple[str, str]],
) -> None:
    gpu = importlib.import_module("gpu")
    (tmp_path / "gpu_parts.py").write_text(WAITS.format(folder=str(BENCHMARKS), end=end, done=done))
    monkeypatch.setattr(gpu, "__file__", str(tmp_path / "gpu.py"))  # the launcher's own processes, another part
    monkeypatch.setattr(gpu.Launcher, "limit", lambda *_: 12.0)
    launcher = gpu.Launcher(out=tmp_path / "out.jsonl", device="cuda", is_tiny=False, ends=0.0)
    launcher.out.write_text("")
    launcher.run("step-0.6b", launcher.start("step-0.6b"))
    _, *lines = gpu_lines(launcher.out)
    reached = [{"case": case, "seconds": 0.5} for case in done]
    others = [{"case": len(done) + number, key: words} for number, (key, words) in enumerate(said, 1)]
    assert lines == [{"part": "step-0.6b", **case} for case in reached + others]


def test_parts_that_measure_share_the_time_that_is_left(
    parts: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The last one gets its part of it, however long the first ones take; what one leaves goes to the others."""
    gpu, now = importlib.import_module("gpu"), 0.0
    monkeypatch.setattr(gpu.time, "monotonic", lambda: now)
    launcher = gpu.Launcher(out=tmp_path / "out.jsonl", device="cuda", is_tiny=False, ends=140.0)
    wanted = {name: part.seconds for name, part in gpu.PARTS.items() if part.is_timed}
    first, second, *others = wanted
    assert launcher.limit(first, [second, *others]) == pytest.approx(140 * wanted[first] / sum(wanted.values()))
    now = 60.0  # the first one took a little more, the second one nothing
    limits = []
    for number, name in enumerate(others, 1):
        limits.append(launcher.limit(name, others[number:]))
        now += limits[-1]
    assert limits[0] == pytest.approx(80 * wanted[others[0]] / (wanted[others[0]] + wanted[others[1]]))
    assert now <= 140
    now = 0.0
    assert launcher.limit(others[-1]) == wanted[others[-1]]


def test_a_check_without_time_fails_the_script_and_a_figure_does_not(parts: Any, tmp_path: Path) -> None:
    gpu, out = importlib.import_module("gpu"), tmp_path / "out.jsonl"
    launcher = gpu.Launcher(out=out, device="cpu", is_tiny=True, ends=time.monotonic() + 1)
    out.write_text("")
    for name in ("precision", "sampling"):
        launcher.run(name, launcher.start(name))
    check, figure = gpu_lines(out)
    assert (check["part"], figure["part"]) == ("precision", "sampling")
    assert "no time was left" in check["error"]
    assert "error" not in figure
    assert "no time was left" in figure["left_out"]


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 0
    assert "no GPU" in done.stdout
    assert not (tmp_path / "out.jsonl").exists()
