"""Printing ends nothing: real processes that print into narrow encodings, closed pipes, full disks; and no noise."""

import os
import pty
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

DLM = [sys.executable, "-c", "from dlm_cli.main import main; main()"]
TEXT = "It is 49° warm in 日本, a ☃ melts \U0001f600.\n\n"
RUN = {
    "training": {"output_dir": "out", "max_steps": 2, "batch_size": 2},
    "dataset": {"name": "./texts.txt", "max_length": 24},
    "evaluation": {"eval_every_steps": 1, "sample_prompts": ["49°"]},
    "sampling": {"gen_length": 4, "steps": 1},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, smallest_model: dict[str, Any]) -> Path:
    """A run file and its data."""
    folder = tmp_path_factory.mktemp("printing")
    (folder / "run.yaml").write_text(yaml.safe_dump({**RUN, "model": smallest_model}), encoding="utf-8")
    adapt = {**RUN, "model": {"name_or_path": "out/final"}}
    (folder / "adapt.yaml").write_text(yaml.safe_dump(adapt), encoding="utf-8")
    (folder / "texts.txt").write_text(TEXT * 60, encoding="utf-8")
    return folder


def start(folder: Path, *arguments: str, encoding: str = "utf-8", **options: Any) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
    return subprocess.Popen([*DLM, *arguments], cwd=folder, env=environment, stderr=subprocess.PIPE, **options)


def after_the_first_line(folder: Path, *arguments: str, encoding: str = "utf-8") -> tuple[int, str]:
    """Exit code and standard error of a command whose reader leaves after one line, as ``head -1`` does."""
    process = start(folder, *arguments, encoding=encoding, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    return ended(process)


def ended(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    with process:
        assert process.stderr is not None
        error = process.stderr.read().decode()
    return process.returncode, error


def on_a_terminal_that_goes_away(folder: Path, *arguments: str) -> tuple[int, str]:
    reader, writer = pty.openpty()
    process = start(folder, *arguments, encoding="ascii", stdout=writer, start_new_session=True)
    os.close(writer)
    os.read(reader, 1)
    os.close(reader)
    return ended(process)


def on_a_full_disk(folder: Path, *arguments: str) -> tuple[int, str]:
    with Path("/dev/full").open("wb") as full:
        return ended(start(folder, *arguments, encoding="cp1252", stdout=full))


WAYS = {"closed": after_the_first_line, "gone": on_a_terminal_that_goes_away, "full": on_a_full_disk}


def is_complete(run: Path) -> bool:
    return (run / "final" / "model.safetensors").exists() and '"step": 2' in (run / "metrics.jsonl").read_text()


@pytest.fixture(scope="module")
def endings(folder: Path) -> dict[str, tuple[int, str]]:
    """How runs ended whose output went nowhere, by the name of their folders."""

    def of_run(name: str) -> tuple[int, str]:
        return WAYS[name](folder, "run", "run.yaml", f"training.output_dir={name}")

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(WAYS, pool.map(of_run, WAYS), strict=True))


def test_a_run_trains_to_its_end_whatever_its_output_takes(folder: Path, endings: dict[str, tuple[int, str]]) -> None:
    assert endings == dict.fromkeys(WAYS, (0, ""))
    assert all(is_complete(folder / name) for name in WAYS)


SEVERAL = """
import shlex, sys
from dlm_cli.main import main
for command in sys.argv[1:]:
    sys.argv = ["dlm", *shlex.split(command)]
    try:
        main()
    except SystemExit as ending:
        assert not ending.code, command
    assert "bitsandbytes" not in sys.modules, command
"""


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp1252"])
def test_what_works_prints_nothing_that_is_not_ours_and_replaces_what_the_output_lacks(
    folder: Path, encoding: str
) -> None:
    """From scratch, from a checkpoint, with adapters: all in one process, because to start one takes the longest."""
    own, adapted = f"training.output_dir={encoding}", f"training.output_dir={encoding}-adapted"
    commands = [
        f"run run.yaml {own}",
        "data preview run.yaml",
        f"generate --model {encoding}/final --prompt 49° --prompt 日本 --steps 2",
        f"run adapt.yaml {adapted} model.name_or_path={encoding}/final lora.r=2",
        f"run adapt.yaml {adapted}-not model.name_or_path={encoding}/final training.mixed_precision=bf16",
    ]
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, "-c", SEVERAL, *commands], cwd=folder, env=environment, capture_output=True, check=False
    )
    error = process.stderr.decode()
    assert process.returncode == 0, error
    assert re.fullmatch(r"\d+ tokens in \d+ forwards .*\n", error), "the statistics of the generation, nothing else"
    text = process.stdout.decode(encoding)
    assert (encoding == "ascii") != ("49°" in text)
    assert "--- ?? [0]" in text
    assert is_complete(folder / encoding)


@pytest.mark.usefixtures("endings")
def test_what_only_prints_ends_quietly_with_its_reader(folder: Path) -> None:
    prompts = [argument for number in range(40) for argument in ("--infill", f"{number} <|mask|>")]
    assert after_the_first_line(folder, "config", "schema") == (0, "")
    assert after_the_first_line(folder, "generate", "--model", "closed/final", *prompts) == (0, "")


def test_output_that_a_full_disk_did_not_take_is_an_error(folder: Path) -> None:
    line = "dlm: not all of the output could be written: No space left on device\n"
    assert on_a_full_disk(folder, "plugins", "list", "--no-load") == (2, line)


@pytest.mark.parametrize("arguments", [["--help"], ["plugins", "list", "--no-load"]])
def test_a_command_without_torch_does_the_same(folder: Path, arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = start(folder, *arguments, stdout=writer)
    os.close(writer)
    assert ended(process) == (0, "")
    closed = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", *DLM, *arguments], capture_output=True, text=True, check=False
    )
    assert (closed.returncode, closed.stderr) == (0, "")
