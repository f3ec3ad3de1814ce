"""What ``--dry-run`` says of memory, against the tensors of the run that it describes."""

import re
from pathlib import Path

import pytest
import torch

import dlm
from dlm.config import load_config
from dlm.errors import UserInputError
from dlm.training.dry_run import describe_run
from dlm.training.memory_plan import size_text


def memory_of(run_file: Path, *overrides: str) -> dict[str, str]:
    """The parts of the line, by name."""
    described = describe_run(load_config(run_file, overrides))
    (line,) = re.findall(r"^memory +about (.*) a process \((.*)\)$", described, re.MULTILINE)
    total, parts = line
    return {"total": total, **dict(re.findall(r"([^,]+?) ([\d.]+ \w+)(?:, |$)", parts))}


@pytest.mark.parametrize("overrides", [(), ("model.dtype=bfloat16",), ("training.mixed_precision=bf16",)])
def test_what_is_kept_between_two_steps_is_counted_to_the_byte(make_engine, take_step, run_file, overrides):
    said = memory_of(run_file, *overrides)
    engine = make_engine(*overrides)
    take_step(engine)
    objects = engine.saver.objects
    parameters = list(objects.model.parameters())
    weights = sum(each.numel() * each.itemsize for each in parameters)
    moments = [
        value
        for state in objects.optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    ]
    assert said["weights"] == said["gradients"] == size_text(weights)
    assert said["AdamW"] == size_text(sum(each.numel() * each.itemsize for each in moments if each.dim()))
    casts = "training.mixed_precision=bf16" in overrides
    assert said.get("gathered or cast") == (size_text(weights / 2) if casts else None)


def test_a_clean_copy_and_its_dense_mask_are_counted(run_file):
    rows, length, float32 = 64, 24, 4
    blocks = ("training.block_attention.enabled=true", "training.block_attention.bias=block_causal")
    plain, copied = (memory_of(run_file, f"training.batch_size={rows}", *each) for each in ((), blocks))
    assert plain["weights"] == copied["weights"]
    one, both = (float(each["activations"].removesuffix(" MiB")) for each in (plain, copied))
    assert both == pytest.approx(2 * one + rows * (2 * length) ** 2 * float32 / 2**20, abs=0.15)


@pytest.mark.parametrize("hiding", ["dataset.isolate_documents=true", "dataset.pack=false"])
def test_the_dense_mask_of_isolated_documents_and_of_padding_is_counted(run_file, hiding):
    rows, length, float32 = 512, 24, 4
    plain, masked = (
        float(memory_of(run_file, f"training.batch_size={rows}", *each)["activations"].removesuffix(" MiB"))
        for each in ((), (hiding,))
    )
    assert masked - plain == pytest.approx(rows * length**2 * float32 / 2**20, abs=0.15)


def test_compiled_layers_keep_less(run_file):
    plain, compiled = (
        float(memory_of(run_file, "training.batch_size=512", *each)["activations"].removesuffix(" MiB"))
        for each in ((), ("training.compile=true",))
    )
    assert compiled == pytest.approx(0.7 * plain, abs=0.1)


def test_it_says_where_the_run_would_start_and_refuses_what_the_run_would(run_file):
    def described(*overrides: str, **options: object) -> str:
        return describe_run(load_config(run_file, overrides), **options)

    assert re.search(r"^start +step 0$", described(), re.MULTILINE)
    output = Path(dlm.run(run_file).output_dir)
    before = {path: path.stat().st_mtime_ns for path in [output, *output.rglob("*")]}
    latest = "training.checkpoint.resume=latest"
    last = output / "checkpoints" / "step-20"
    with pytest.raises(UserInputError, match=r"already holds checkpoints, up to step 20"):
        described()
    assert re.search(rf"^start +step 20, from {re.escape(str(last))}$", described(latest), re.MULTILINE)
    assert re.search(r"^start +step 0$", described("training.checkpoint.resume=none"), re.MULTILINE)
    with pytest.raises(UserInputError, match=r"cannot resume(?s:.*)training.seed: 0 in the checkpoint, 7 now"):
        described(latest, "training.seed=7")
    allowed = described(latest, "training.seed=7", allow_change=["training.seed"])
    assert "changed since the checkpoint: training.seed: 0 in the checkpoint, 7 now" in allowed
    assert {path: path.stat().st_mtime_ns for path in [output, *output.rglob("*")]} == before
