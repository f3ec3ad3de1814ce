"""A step of learning from rewards: rollouts, then ordinary updates on them (policy gradient, PPO, GRPO)."""

from collections.abc import Callable
from time import perf_counter

import attrs
from torch import nn

from dlm.data.batch import StepBatch
from dlm.diffusion.forward_process import ForwardProcess, NoisedBatch, PolicyFigures
from dlm.diffusion.policy_objective import PolicySums
from dlm.diffusion.reference import Reference
from dlm.training.rollouts import Rollout, Rollouts
from dlm.training.step import StepResult, TrainingStep, nothing
from dlm.training.value_model import ValueModel


@attrs.define(kw_only=True)
class PolicyStep:
    """One global step: a rollout and all its updates, so that nothing is under way between two steps."""

    training_step: TrainingStep
    rollouts: Rollouts
    forward_process: ForwardProcess
    num_updates: int
    reference: Reference | None
    """What the loss keeps to."""
    value_model: ValueModel | None = None
    """What the answers are compared with; the rollouts ask the same one."""

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
        results = [
            self.training_step.update(views, len(views), step, meanwhile, is_last=number == self.num_updates - 1)
            for number in range(self.num_updates)
        ]
        result = next((each for each in results if each.is_bad), results[-1])  # later updates may be sound again
        sums = PolicySums.unpack(result.own_sums)
        figures, is_bad = {**rollout.figures, **sums.figures(has_reference=self.reference is not None)}, result.is_bad
        if self.value_model is not None:
            learned, value_is_bad = self.value_model.learn(rollout.states, step)
            figures, is_bad = {**figures, **learned}, is_bad or value_is_bad
        return attrs.evolve(
            result,
            figures=figures,
            seconds={**rollout.seconds, "update_seconds": perf_counter() - started},
            is_bad=is_bad,
            samples=rollout.samples,
            # Values differ from rewards that are all the same, and there is nothing to learn from them all the same.
            has_signal=bool(rollout.figures["groups_with_signal"] and rollout.figures["reward_std"]),
        )

    def _view(self, rollout: Rollout, number: int, step: int) -> NoisedBatch:
        """A micro-batch as the updates see it, each of them the same."""
        batch = rollout.batches[number]
        noised = self.forward_process(batch, step=step, num_rows=rollout.num_answers)
        row_of = noised.row_of()
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
