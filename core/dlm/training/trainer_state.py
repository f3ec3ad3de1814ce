"""Where a run stands: step, epoch, data position; metrics, tokens per second and peak memory since the last log."""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs
import cattrs
import psutil
import torch

from dlm.diffusion.sums import Sums, ratio
from dlm.errors import CheckpointError
from dlm.model.checkpoint_sources import STATE_FILE
from dlm.training.checkpoints.manifest import FORMAT_VERSION, check_format


@attrs.define
class Window:
    """What happened since the last line of the log. Part of the trainer's state, so that a resumed log is the same."""

    steps: int = 0
    loss: float = 0.0
    """Sum of the losses of the steps."""
    grad_norm: float = 0.0
    """Sum of the gradient norms."""
    sums: Sums = attrs.field(factory=Sums)
    figures: dict[str, list[float]] = attrs.field(factory=dict)
    """Of each further figure the sum, and the number of steps that had it."""

    def add(self, sums: Sums, grad_norm: float, figures: Mapping[str, float | None] = MappingProxyType({})) -> None:
        """Add a step that was taken."""
        for name, value in figures.items():
            total, count = self.figures.get(name, (0.0, 0.0))
            self.figures[name] = [total, count] if value is None else [total + value, count + 1]
        self.steps += 1
        self.loss += sums.loss
        self.grad_norm += grad_norm
        self.sums.add(sums)

    def metrics(self) -> dict[str, object]:
        """Means over the window; None where no step was taken."""
        return {
            "loss": ratio(self.loss, self.steps),
            **self.sums.quality(),
            "grad_norm": ratio(self.grad_norm, self.steps),
            **{name: ratio(total, count) for name, (total, count) in self.figures.items()},
        }


@attrs.define(kw_only=True)
class TrainerState:
    """Position and running figures. The next batch is ``epoch_batch`` of ``epoch``."""

    global_step: int = 0
    """Optimizer steps so far, steps that were skipped included."""
    epoch: int = 0
    epoch_batch: int = 0
    tokens_seen: int = 0
    num_bad_in_a_row: int = 0
    num_steps_without_signal: int = 0
    """In a row, until now: steps whose rewards told no answers apart."""
    window: Window = attrs.field(factory=Window)
    evaluated_step: int | None = None
    """The last step whose evaluation is in the logs: a run that is told to end saves before it evaluates."""
    best_loss: float | None = None
    """Lowest evaluation loss of a step that was saved."""
    best_step: int | None = None
    stream: Mapping[str, Any] | None = None
    """Position in a streamed data set."""
    file_sizes: Mapping[str, int] = attrs.field(factory=dict)
    """Length in bytes of each log when this state was saved: what came later is cut off on resume."""

    def epochs_done(self, steps_per_epoch: int | None) -> float:
        """Passes over the data so far; whole passes where the length of the data is not known."""
        return self.epoch + (round(self.epoch_batch / steps_per_epoch, 4) if steps_per_epoch else 0)

    def text(self, identity: Mapping[str, object]) -> str:
        """The state, and what the run was, as a checkpoint holds them."""
        content = {"format_version": FORMAT_VERSION, **cattrs.unstructure(self), "identity": dict(identity)}
        return json.dumps(content, indent=1) + "\n"

    @classmethod
    def read(cls, folder: Path) -> tuple["TrainerState", dict[str, object]]:
        """The state in a checkpoint, and what the run was.

        Raises:
            CheckpointError: The file is not a trainer state this version can read.
        """
        try:
            content = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
            check_format(folder, content.pop("format_version"))
            identity = dict(content.pop("identity"))
            return cattrs.structure(content, cls), identity
        except (OSError, ValueError, KeyError, TypeError, AttributeError, cattrs.BaseValidationError) as error:
            raise CheckpointError(f"{folder}: {STATE_FILE} cannot be read ({error})") from None


@attrs.define
class Stopwatch:
    """Counts tokens and seconds of training; evaluation and saving are taken out."""

    _started: float = attrs.field(factory=time.monotonic)
    _excluded: float = 0.0
    _tokens: float = 0.0
    _parts: dict[str, float] = attrs.field(factory=dict)

    def add(self, num_tokens: float, parts: Mapping[str, float] = MappingProxyType({})) -> None:
        """Count the tokens of a step, and what its parts took."""
        self._tokens += num_tokens
        for name, seconds in parts.items():
            self._parts[name] = self._parts.get(name, 0.0) + seconds

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
            **self._parts,
        }
        self._started, self._excluded, self._tokens, self._parts = time.monotonic(), 0.0, 0.0, {}
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
