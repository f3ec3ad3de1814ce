"""How long a step waits for a save: the step after one against the others, and what is written meanwhile.

    python benchmarks/saving.py

Model, data and noise of ``configs/pretrain.yaml``, a checkpoint at every fourth step. What is saved is copied, and
a thread writes it; the next step waits for the copy, and for the save before where that is not done. Exit code 1 where
that is too long, in terms of a step.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import attrs
import torch

from dlm.config import load_config
from dlm.training.assembly import assemble, build_accelerator
from dlm.training.console import TrainingConsole
from dlm.training.engine import Engine
from dlm.training.saver import Saver

MAX_SHARE = 0.1
"""Of the time of a step, that the step after a save starts later."""
EVERY = 4
NUM_WARMUP = 4
RUN_FILE = Path(__file__).parent.parent / "configs" / "pretrain.yaml"


@attrs.define
class Timed:
    """A function or an object that is called, and how long each call took."""

    inner: Any
    seconds: list[float] = attrs.field(factory=list)

    def __call__(self, *arguments: Any) -> Any:
        started = time.perf_counter()
        result = self.inner(*arguments)
        self.seconds.append(time.perf_counter() - started)
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def measure(num_steps: int) -> tuple[list[float], list[float], list[float], int]:
    """Seconds of steps, of what each save kept the next one waiting for, and until each was on the disk; its size."""
    with tempfile.TemporaryDirectory() as folder:
        overrides = [
            f"training.output_dir={folder}",
            f"training.max_steps={num_steps}",
            f"training.checkpoint.every_steps={EVERY}",
            "evaluation.do_eval_loss=false",
            "evaluation.sample_prompts=[]",
        ]
        loaded = load_config(RUN_FILE, overrides)
        engine: Engine = assemble(loaded, build_accelerator(loaded.config))
        saves, writes = Timed(Engine.save), Timed(Saver._publish)
        Engine.save = lambda *arguments: saves(*arguments)  # type: ignore[method-assign]
        Saver._publish = lambda *arguments: writes(*arguments)  # type: ignore[method-assign]
        engine.step = Timed(engine.step)  # type: ignore[assignment]
        engine.console = TrainingConsole(num_steps=num_steps, is_main=False)
        with engine.saver.folder:
            engine.run()
        steps = engine.step.seconds  # type: ignore[attr-defined]
        newest = engine.saver.store.path(num_steps)
        size = sum(path.stat().st_size for path in newest.iterdir())
    return steps[NUM_WARMUP:], saves.seconds[:-1], writes.seconds, size  # the last save is waited for


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    num_steps = parser.parse_args().steps
    if num_steps < 2 * EVERY:
        parser.error(f"--steps {num_steps}: at least {2 * EVERY}, as the last save is not counted")
    steps, saves, writes, size = measure(num_steps)
    step, wait = statistics.median(steps), statistics.median(saves)
    print(f"threads {torch.get_num_threads()}; a checkpoint of {size / 1e6:.0f} MB; median milliseconds: ", end="")
    print(f"step {1e3 * step:.1f}, copy {1e3 * wait:.1f}, written after {1e3 * statistics.median(writes):.1f}")
    share = wait / step
    is_met = share <= MAX_SHARE
    print(f"the step after a save starts {share:.3f} of a step later (at most {MAX_SHARE}), ", end="")
    print(f"the first one {saves[0] / step:.3f}: {'met' if is_met else 'MISSED'}")
    sys.exit(0 if is_met else 1)


if __name__ == "__main__":
    main()
