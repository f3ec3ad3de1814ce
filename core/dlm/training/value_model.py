"""The value model of learning from rewards (TraceRL, PPO's critic): what it expects of answers, how it learns."""

import copy
from collections.abc import Mapping, Sequence

import attrs
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel

from dlm.config import LoadedConfig, run_components
from dlm.config.rl_section import ValueConfig
from dlm.data.batch import Batch
from dlm.diffusion.forward_process import ForwardProcess, NoisedBatch, PolicyFigures
from dlm.diffusion.value_objective import ValueObjective, ValueSums
from dlm.diffusion.vocabulary import Vocabulary
from dlm.training.checkpoint_contents import Companion, TrainingObjects
from dlm.training.model_and_noise import build_objective
from dlm.training.optimisation import parameter_groups
from dlm.training.step import TrainingStep
from dlm_plugins import ParameterGroup
from dlm_plugins.advantage import GAMMA


@attrs.define(kw_only=True)
class ValueModel:
    """A copy of the network that learns what answers will be worth, seen in the states the rollouts went through."""

    training_step: TrainingStep
    forward_process: ForwardProcess
    """Shows the states of the trace, whatever the policy is trained on."""
    gamma: float
    num_updates: int

    def expect(
        self, batches: Sequence[Batch], rewards: Sequence[Tensor], step: int, num_rows: int
    ) -> list[NoisedBatch]:
        """The states that answers went through, with the values that are expected there and what came out.

        Args:
            batches: micro-batches of answers.
            rewards: (B,) of each.
            step: number of the step.
            num_rows: answers of the step, over all ranks.
        """
        return [self._states(batch, each, step, num_rows) for batch, each in zip(batches, rewards, strict=True)]

    def learn(self, states: Sequence[NoisedBatch], step: int) -> tuple[Mapping[str, float | None], bool]:
        """Take the updates; what is logged, and whether one was bad."""
        self.training_step.objective.train()
        results = [
            self.training_step.update(states, len(states), step, is_last=number == self.num_updates - 1)
            for number in range(self.num_updates)
        ]
        explained = ValueSums.unpack(results[0].own_sums).explained()
        figures = {"value_loss": results[0].sums.loss, "value_explained": explained}
        return figures, any(result.is_bad for result in results)

    def _states(self, batch: Batch, rewards: Tensor, step: int, num_rows: int) -> NoisedBatch:
        accelerator = self.training_step.accelerator
        noised = self.forward_process(batch, step=step, num_rows=num_rows)
        returns = discounted(rewards, batch, self.gamma)[noised.row_of()]
        noised = noised.to(accelerator.device)
        objective = accelerator.unwrap_model(self.training_step.objective)
        objective.eval()  # what is expected is free of dropout
        with accelerator.autocast(), torch.no_grad():
            value = objective.values(noised)
        policy = PolicyFigures(value=value, returns=returns)
        return attrs.evolve(noised, policy=policy.to(accelerator.device))


def values_of(states: NoisedBatch, batch: Batch) -> Tensor:
    """(B, L) float32 on the host: what was expected at each position when it was about to be written, else 0."""
    assert states.policy is not None
    assert states.policy.value is not None
    scored = states.policy.value.masked_fill(~states.scored, 0.0).float().cpu()
    return torch.zeros(batch.input_ids.shape).index_add_(0, states.row_of(), scored)


def discounted(rewards: Tensor, batch: Batch, gamma: float) -> Tensor:
    """(B, L) float32: the rewards (B,), times ``gamma`` for each later step of the answer that wrote something."""
    assert batch.committed_step is not None
    steps = batch.committed_step
    later = torch.zeros_like(steps)
    for number in range(int(steps.max().item()), 0, -1):
        later += (steps == number).any(dim=1, keepdim=True) & (steps < number)
    return rewards[:, None].float() * gamma ** later.float()


def build_value_model(
    settings: ValueConfig, objects: TrainingObjects, step: TrainingStep, loaded: LoadedConfig, vocabulary: Vocabulary
) -> ValueModel:
    """Copy the network of a run that has not begun. Checkpoints hold the copy and its optimizer from now on."""
    config, registry, accelerator = loaded.config, loaded.registry, objects.accelerator
    model = copy.deepcopy(objects.model)
    objective = build_objective(model, config, run_components(config, registry), vocabulary, cls=ValueObjective)
    objective.clip = settings.clip
    objective.to(accelerator.device)
    assert isinstance(objective.body, PreTrainedModel)
    head = dict(objective.head.named_parameters(prefix="head"))
    groups = [*parameter_groups(objective.body), ParameterGroup(parameters=head, decays=False, is_embedding=False)]
    prepared, optimizer = accelerator.prepare(objective), settings.optimizer.build(groups)
    objects.companion = Companion(module=objective, optimizer=optimizer)
    trace = registry.resolve("masking", "trace").cls
    return ValueModel(
        training_step=attrs.evolve(
            step,
            objective=prepared,
            optimizer=accelerator.prepare(optimizer),
            scheduler=LambdaLR(optimizer, lambda _: 1.0),
            figure_names=(),
        ),
        forward_process=attrs.evolve(step.forward_process, masking=trace(shrink=settings.shrink)),
        gamma=float(GAMMA.of(config.rl.advantage)),
        num_updates=settings.updates,
    )
