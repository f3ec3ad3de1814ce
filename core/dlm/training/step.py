"""One training step: gradient accumulation, normaliser, gradient clipping, NaN check, fp16 loss scaler, update."""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Protocol

import attrs
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from dlm.data.batch import RandomLength, StepBatch
from dlm.diffusion.forward_process import ForwardProcess, NoisedBatch
from dlm.diffusion.sums import Sums, means
from dlm.training.processes import waiting_for
from dlm.training.sharding import whole


@attrs.frozen(kw_only=True)
class StepResult:
    """What a step saw and did."""

    sums: Sums
    grad_norm: float
    """Before clipping; not finite where a loss scaler found an overflow."""
    learning_rate: float
    """What the step was taken with, or would have been; the largest of the parameter groups."""
    is_bad: bool
    """Loss or gradient was not finite, and no loss scaler was at work: the step was not taken."""
    own_sums: Sequence[float] = ()
    """What the objective sums up besides, over micro-batches and ranks."""
    figures: Mapping[str, float | None] = attrs.field(factory=dict)
    """What is logged besides; None of nothing."""
    seconds: Mapping[str, float] = attrs.field(factory=dict)
    """What took how long, where a step has parts."""
    has_signal: bool = True
    """Whether there was anything to learn from."""
    samples: Sequence[Mapping[str, object]] = ()
    """What was written to learn from, the first few of it, for the log of samples."""


class Step(Protocol):
    """How a step is taken: on the batch as it is read, or on what is made of it."""

    @property
    def objective(self) -> nn.Module:
        """What is trained, prepared by accelerate."""
        ...

    @property
    def learning_rate(self) -> float:
        """Of the next step, the largest of the parameter groups."""
        ...

    def prepare(self, step_batch: StepBatch, step: int) -> None:
        """Do what can be done of a coming step before the present one is finished."""
        ...

    def __call__(self, step_batch: StepBatch, step: int, meanwhile: Callable[[], None]) -> StepResult:
        """Take the step; ``meanwhile`` is called while the device works."""
        ...


def nothing() -> None:
    """Nothing is done meanwhile."""


@attrs.define(kw_only=True)
class TrainingStep:
    """Takes one optimizer step on a global step batch."""

    accelerator: Accelerator
    objective: nn.Module
    """Prepared by accelerate, as is the optimizer."""
    forward_process: ForwardProcess
    random_length: RandomLength
    optimizer: torch.optim.Optimizer
    scheduler: LRScheduler
    max_grad_norm: float | None
    seed: int
    typical_normaliser: float
    """About what the normalisers of a step add up to: it keeps the scale of what is back-propagated near 1."""
    figure_names: tuple[str, ...] = ()
    """Of the sums that the loss reports beside the loss."""
    _prepared: tuple[StepBatch, int, list[NoisedBatch]] | None = attrs.field(default=None, init=False)

    def prepare(self, step_batch: StepBatch, step: int) -> None:
        """Noise the micro-batches of a coming step and send them to the device."""
        self._prepared = step_batch, step, list(self._noised(step_batch, step))

    def __call__(self, step_batch: StepBatch, step: int, meanwhile: Callable[[], None] = nothing) -> StepResult:
        """Accumulate the gradient of the micro-batches, then update.

        Args:
            step_batch: this rank's part of the global step batch.
            step: number of the step.
            meanwhile: is called when all of the gradient's work is waiting for the device.
        """
        noised_batches = self._micro_batches(step_batch, step)
        return self.update(noised_batches, len(step_batch.micro_batches), step, meanwhile)

    def update(
        self,
        noised_batches: Iterable[NoisedBatch],
        num_batches: int,
        step: int,
        meanwhile: Callable[[], None] = nothing,
        *,
        is_last: bool = True,
    ) -> StepResult:
        """The same on micro-batches that are noised already: the same number on every rank.

        Args:
            noised_batches: on the device.
            num_batches: how many there are.
            step: number of the step.
            meanwhile: is called when all of the gradient's work is waiting for the device.
            is_last: whether the step ends with this update; only then does the learning rate advance.
        """
        accelerator = self.accelerator
        # Dropout is the one user of the global generator.
        torch.manual_seed(self.seed + step * accelerator.num_processes + accelerator.process_index)
        self.optimizer.zero_grad()
        sums = []
        for index, noised in enumerate(noised_batches):
            sync = nullcontext() if index == num_batches - 1 else accelerator.no_sync(self.objective)
            with sync, waiting_for(accelerator, f"the gradients of step {step + 1}"):
                total, sums_of_batch = self.objective(noised)
                accelerator.backward(total / self.typical_normaliser)
            sums.append(sums_of_batch)
        with waiting_for(accelerator, f"the loss of step {step + 1}"):
            summed: Tensor = accelerator.reduce(torch.stack(sums).sum(dim=0), reduction="sum")
            # Processes average their gradients; wanted is their sum, over the sum of the normalisers.
            scale = self.typical_normaliser * accelerator.num_processes / Sums.normaliser_in(summed).clamp(min=1e-30)
            norm = self._scale_and_clip(scale)
        meanwhile()
        with waiting_for(accelerator, f"the loss of step {step + 1}"):
            *values, grad_norm = torch.cat((summed, norm.reshape(1))).tolist()  # the one wait for the device in a step
        common, own_sums = Sums.split(values)
        result = self._update(Sums.unpack(common), grad_norm, is_last=is_last)
        figures = means(self.figure_names, own_sums, result.sums)
        return attrs.evolve(result, own_sums=own_sums, figures=figures)

    def _micro_batches(self, step_batch: StepBatch, step: int) -> Iterator[NoisedBatch]:
        """The prepared micro-batches, if it was this step that was prepared."""
        prepared, self._prepared = self._prepared, None
        if prepared is not None and prepared[0] is step_batch and prepared[1] == step:
            return iter(prepared[2])
        return self._noised(step_batch, step)

    def _noised(self, step_batch: StepBatch, step: int) -> Iterator[NoisedBatch]:
        for clean in step_batch.micro_batches:
            batch = self.random_length(clean, step)
            noised = self.forward_process(batch, step=step, num_rows=step_batch.num_rows)
            yield noised.to(self.accelerator.device)

    @property
    def learning_rate(self) -> float:
        """Of the next step, the largest of the parameter groups."""
        return float(max(self.scheduler.get_last_lr()))

    def _scale_and_clip(self, scale: Tensor) -> Tensor:
        """Make the accumulated gradient that of the loss, and clip it; return its norm before clipping."""
        self.accelerator.unscale_gradients()
        gradients = [parameter.grad for parameter in self.objective.parameters() if parameter.grad is not None]
        norm = whole(torch.nn.utils.get_total_norm(gradients)) * scale
        if self.max_grad_norm is not None:
            scale = scale * (self.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(gradients, scale)
        return norm

    def _update(self, sums: Sums, grad_norm: float, *, is_last: bool) -> StepResult:
        """Step the optimizer unless loss or gradient is not finite. The learning rate advances either way."""
        scaler = self.accelerator.scaler
        # A loss scaler meets overflows on its way to a good scale and skips those steps itself.
        overflow_is_normal = scaler is not None and scaler.get_scale() >= 1.0 and math.isfinite(sums.loss)
        is_bad = not (math.isfinite(sums.loss) and math.isfinite(grad_norm)) and not overflow_is_normal
        learning_rate = self.learning_rate
        if not is_bad:
            self.optimizer.step()
        elif scaler is not None:
            scaler.update()  # otherwise it waits for this step's end, and refuses the next one
        if not is_last:
            return StepResult(sums=sums, grad_norm=grad_norm, learning_rate=learning_rate, is_bad=is_bad)
        with warnings.catch_warnings():
            # torch takes a first step that is skipped, here or by a loss scaler, for calls in the wrong order.
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
            self.scheduler.step()
        return StepResult(sums=sums, grad_norm=grad_norm, learning_rate=learning_rate, is_bad=is_bad)
