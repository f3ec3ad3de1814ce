"""Where a part of ``gpu.py`` runs, and where its figures go."""

import contextlib
import gc
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch

import gpu
from dlm.errors import DlmError
from gpu_trial import TINY, Shape


@attrs.frozen(kw_only=True)
class Bench:
    """Where a part runs, and where its figures go."""

    part: str
    out: Path
    device: torch.device
    is_tiny: bool

    def record(self, **figures: Any) -> None:
        gpu.record(self.out, part=self.part, **figures)

    def plan(self, cases: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
        """Announce the cases, what is worth most first: those that are not reached become lines nevertheless."""
        self.record(planned=cases)
        return cases

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
        """One case: what the product refuses, what does not fit and what fails becomes a line; the next one goes on."""
        # Here, not at the end: an exception holds what a case that failed had made until this function has ended.
        self.clean_up()
        try:
            yield
        except DlmError as error:
            self.record(**names, refused=" ".join(str(error).split()))
        except torch.OutOfMemoryError:
            self.record(**names, refused="out of memory")
        except Exception as error:  # compilers and kernels have errors of their own kinds
            traceback.print_exc()
            self.record(**names, error=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")

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
