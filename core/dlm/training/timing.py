"""Tokens per second, time and peak memory (``timings.jsonl``), outside the promise that resuming changes nothing."""

import sys
import time

import attrs
import psutil
import torch


@attrs.define
class Stopwatch:
    """Counts tokens and seconds of training; evaluation and saving are taken out."""

    _started: float = attrs.field(factory=time.monotonic)
    _excluded: float = 0.0
    _tokens: float = 0.0

    def add(self, num_tokens: float) -> None:
        """Count the tokens of a step."""
        self._tokens += num_tokens

    def exclude(self, seconds: float) -> None:
        """Take out time that was not training."""
        self._excluded += seconds

    def lap(self, device: torch.device) -> dict[str, float | None]:
        """Figures since the last lap: tokens per second, seconds, and the peak memory in bytes."""
        seconds = time.monotonic() - self._started - self._excluded
        figures = {
            "tokens_per_second": self._tokens / seconds if seconds > 0 else None,
            "seconds": seconds,
            "peak_memory": float(peak_memory(device)),
        }
        self._started, self._excluded, self._tokens = time.monotonic(), 0.0, 0.0
        return figures


def peak_memory(device: torch.device) -> int:
    """Most memory used so far, in bytes: of the accelerator, or of the process where the device has no counter."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
