"""How many files of ours one opens to follow a batch to its first loss, and a prompt to its text.

Counts the source files in which a function runs; importing a module does not count.

* A batch: `dlm run configs/pretrain.yaml`, with one step and a small tokenizer, until the loss of the first training
  step: the run file, the assembly with the evaluation of step 0, the step. Samples are journeys of prompts.
* A prompt: one text written by an opened session that has not sampled before, from its prompt to the finished text.

    python benchmarks/hops.py            # the figures; exit code 1 where one is missed
    python benchmarks/hops.py --files    # and the files, in the order in which they are entered
"""

import argparse
import contextlib
import importlib
import inspect
import io
import pkgutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import dlm
import dlm_builtin_plugins
import dlm_cli
import dlm_plugins
from dlm.config import load_config
from dlm.sampling.arguments import settings_of
from dlm.sampling.session import Session
from dlm.training.step import TrainingStep

ROOT = Path(__file__).parent.parent
PACKAGES = (dlm, dlm_cli, dlm_plugins, dlm_builtin_plugins)
SOURCES = tuple(str(Path(package.__path__[0])) for package in PACKAGES)
MAX_FILES = {"a batch": 95, "a prompt": 35}


class FirstLossError(Exception):
    """Ends a run once it had its first loss."""


def import_everything() -> None:
    """Import all modules of ours, so that what runs while they are imported is not counted."""
    for package in PACKAGES:
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)


@contextmanager
def files_run(found: dict[str, None]) -> Iterator[None]:
    """Note every file of ours in which a function is entered, in order; worker threads included."""

    def note(frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        # Bodies of modules and classes run as well, but are not optimised code.
        if event == "call" and code.co_flags & inspect.CO_OPTIMIZED and code.co_filename.startswith(SOURCES):
            found.setdefault(str(Path(code.co_filename).relative_to(ROOT)))

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]


def overrides(folder: Path, *more: str) -> list[str]:
    """What makes the default run short."""
    return [
        f"training.output_dir={folder}",
        "training.max_steps=1",
        "model.tokenizer={train: {vocab_size: 300}}",
        *more,
    ]


def files_of_a_batch(folder: Path) -> dict[str, dict[str, None]]:
    """The files of each phase."""
    config: dict[str, None] = {}
    assembly: dict[str, None] = {}
    step: dict[str, None] = {}
    original = TrainingStep.__call__

    def first_step(self: TrainingStep, *arguments: Any) -> Any:
        with files_run(step):
            original(self, *arguments)
        raise FirstLossError

    with files_run(config):
        loaded = load_config(ROOT / "configs" / "pretrain.yaml", overrides(folder, "evaluation.sample_prompts=[]"))
    TrainingStep.__call__ = first_step  # type: ignore[method-assign]
    try:
        with files_run(assembly):
            dlm.run(loaded)
    except FirstLossError:
        pass
    finally:
        TrainingStep.__call__ = original  # type: ignore[method-assign]
    return {"the run file": config, "the assembly": assembly, "the step": step}


def files_of_a_prompt(folder: Path) -> dict[str, None]:
    """The files of one text, by a process that has not sampled before."""
    run = [sys.executable, "-m", "dlm", "run", str(ROOT / "configs" / "pretrain.yaml"), *overrides(folder)]
    subprocess.run(run, capture_output=True, check=True)
    session = Session.open(str(folder / "final"), settings_of({"gen_length": 8}))
    found: dict[str, None] = {}
    with files_run(found):
        for batch in session.batches(session.tasks(["The value of"]), 1):
            *_, state = session.states(batch)
            session.results(batch, state)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", action="store_true", help="also name the files")
    names_wanted = parser.parse_args().files
    import_everything()
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()):
        prompt = files_of_a_prompt(Path(name) / "prompt")
        phases = {**files_of_a_batch(Path(name) / "batch"), "a prompt": prompt}
    batch = {file for phase, files in phases.items() if phase != "a prompt" for file in files}
    for phase, files in phases.items():
        print(f"{phase}: {len(files)}")
        if names_wanted:
            print("".join(f"    {file}\n" for file in files), end="")
    counts = {"a batch": len(batch), "a prompt": len(phases["a prompt"])}
    for journey, count in counts.items():
        print(f"{journey}: {count} files, at most {MAX_FILES[journey]}")
    if any(count > MAX_FILES[journey] for journey, count in counts.items()):
        sys.exit(1)


if __name__ == "__main__":
    main()
