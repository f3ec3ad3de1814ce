"""A step of learning from rewards: rollouts, then ordinary updates on them (policy gradient, PPO, GRPO)."""

from collections.abc import Callable
from time import perf_counter

import attrs
import torch
from torch import Tensor, nn

from dlm.data.batch import StepBatch
from dlm.diffusion.forward_process import ForwardProcess, NoisedBatch, PolicyFigures
from dlm.diffusion.policy_objective import PolicySums
from dlm.diffusion.reference import Reference
from dlm.training.rollouts import Rollout, Rollouts
from dlm.training.step import StepResult, TrainingStep, nothing


@attrs.define(kw_only=True)
class PolicyStep:
    """One global step: a rollout and all its updates, so that nothing is under way between two steps."""

    training_step: TrainingStep
    rollouts: Rollouts
    forward_process: ForwardProcess
    num_updates: int
    reference: Reference | None
    """What the loss keeps to."""

    @property
    def objective(self) -> nn.Module:
        """As of the training step."""
        return self.training_step.objective

    @property
    def learning_rate(self) -> float:
        """As of the training step."""
        return self.training_step.learning_rate

    def prepare(self, step_batch: StepBatch, step: int) -> None:
        """Nothing: what is trained in a step is written by the model that the step before leaves."""

    def __call__(self, step_batch: StepBatch, step: int, meanwhile: Callable[[], None] = nothing) -> StepResult:
        """Let the model answer, and learn from what the answers are worth.

        Args:
            step_batch: this rank's part of the prompts of the step.
            step: number of the step.
            meanwhile: is called when all of a gradient's work is waiting for the device.
        """
        rollout = self.rollouts(step_batch, step)
        started = perf_counter()
        self.objective.eval()  # what the updates are compared with is free of dropout
        views = [self._view(rollout, number, step) for number in range(len(rollout.batches))]
        self.objective.train()
        for update in range(self.num_updates):
            is_last = update == self.num_updates - 1
            result = self.training_step.update(views, len(views), step, meanwhile, is_last=is_last)
        sums = PolicySums.unpack(result.own_sums)
        return attrs.evolve(
            result,
            figures={**rollout.figures, **sums.figures(has_reference=self.reference is not None)},
            seconds={**rollout.seconds, "update_seconds": perf_counter() - started},
            has_signal=bool(rollout.figures["groups_with_signal"]),
        )

    def _view(self, rollout: Rollout, number: int, step: int) -> NoisedBatch:
        """A micro-batch as the updates see it, each of them the same."""
        batch = rollout.batches[number]
        noised = self.forward_process(batch, step=step, num_rows=rollout.num_answers)
        row_of = _row_of(batch.row_index, noised.clean.row_index)
        device = self.training_step.accelerator.device
        noised = noised.to(device)
        accelerator = self.training_step.accelerator
        old = reference = None
        with accelerator.autocast():
            if self.num_updates > 1:
                old = accelerator.unwrap_model(self.objective).log_probabilities(noised)
            if self.reference is not None:
                reference = self.reference.log_probabilities(noised)
        policy = PolicyFigures(
            advantage=rollout.advantages[number][row_of],
            group_advantage=rollout.group_advantages[number][row_of],
            old_log_probability=old,
            reference_log_probability=reference,
        )
        return attrs.evolve(noised, policy=policy.to(device))


def _row_of(rows: Tensor, views: Tensor) -> Tensor:
    """(B',) int64: which of the rows (B,) each view is of. The views of a row are neighbours, in the order of rows."""
    starts = torch.ones_like(views, dtype=torch.bool)
    starts[1:] = views[1:] != views[:-1]
    return starts.long().cumsum(dim=0) - 1
