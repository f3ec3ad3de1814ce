"""Evaluation: loss on held-out rows under noise that never changes; sample texts (``evaluation.sample_prompts``)."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import attrs
import torch
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dlm.config.sampling_settings import SamplingSettings
from dlm.data.batch import Batch
from dlm.diffusion.forward_process import ForwardProcess
from dlm.diffusion.sums import Sums, means
from dlm.sampling.texts import Completion, complete_texts
from dlm.training.processes import waiting_for
from dlm.training.sharding import lend, let_go


class Figures(Protocol):
    """What an evaluation found."""

    @property
    def loss(self) -> float:
        """What the best checkpoint has least of."""
        ...

    @property
    def headline(self) -> str:
        """One line for people."""
        ...

    def quality(self) -> dict[str, object]:
        """What is logged besides."""
        ...


class Evaluates(Protocol):
    """Measures the model on held-out rows, the same at every evaluation of a run. All processes must call."""

    @property
    def summary(self) -> str:
        """How many rows of how many."""
        ...

    def __call__(self) -> Figures:
        """What is found."""
        ...


class Sample(Protocol):
    """A prompt and what the model wrote after it."""

    @property
    def prompt(self) -> str:
        """The text."""
        ...

    @property
    def text(self) -> str:
        """What was written."""
        ...

    @property
    def record(self) -> Mapping[str, object]:
        """What is logged."""
        ...


class Samples(Protocol):
    """Lets the model write at each evaluation. All processes must call."""

    def __call__(self) -> Sequence[Sample]:
        """What was written."""
        ...


@attrs.frozen(kw_only=True)
class Measured:
    """Sums over the evaluation rows, and what the loss reports besides."""

    sums: Sums
    figures: Mapping[str, float | None]

    @property
    def loss(self) -> float:
        """Of all rows."""
        return self.sums.loss

    @property
    def headline(self) -> str:
        """The loss and the figures."""
        told = (f", {name.replace('_', ' ')} {value:.4f}" for name, value in self.figures.items() if value is not None)
        return f"eval loss {self.loss:.4f}{''.join(told)}"

    def quality(self) -> dict[str, object]:
        """As of the sums, and the figures."""
        return {**self.sums.quality(), **self.figures}


@attrs.frozen(kw_only=True)
class Evaluation:
    """Scores the evaluation rows. Every evaluation of a run sees the same rows, masks and mask rates."""

    accelerator: Accelerator
    objective: nn.Module
    forward_process: ForwardProcess
    """With its own seed, and times on a fixed grid over all rows."""
    batches: Iterable[Batch]
    """This process's share of the rows; ``row_index`` counts over all of them."""
    num_rows: int
    summary: str
    """How many rows of how many."""
    figure_names: tuple[str, ...] = ()
    """Of the sums that the loss reports beside the loss."""

    def __call__(self) -> "Measured":
        """What is measured over the evaluation rows of all processes."""
        self.objective.eval()
        sums = []
        with torch.no_grad():
            for batch in self.batches:
                noised = self.forward_process(batch, step=0, num_rows=self.num_rows).to(self.accelerator.device)
                with waiting_for(self.accelerator, "the others to evaluate"):
                    sums.append(self.objective(noised)[1])
        let_go(self.objective)
        self.objective.train()
        with waiting_for(self.accelerator, "the others' evaluation"):
            common, own = Sums.split(self.accelerator.reduce(torch.stack(sums).sum(dim=0), reduction="sum").tolist())
        found = Sums.unpack(common)
        return Measured(sums=found, figures=means(self.figure_names, own, found))


@attrs.frozen(kw_only=True)
class Sampler:
    """Continues the prompts of the run file. Its randomness is keyed, so training does not notice."""

    model: PreTrainedModel
    objective: nn.Module
    """What was prepared for training, around the model."""
    tokenizer: PreTrainedTokenizerBase
    prompts: Sequence[str]
    settings: SamplingSettings

    def __call__(self) -> Sequence[Completion]:
        """One completion for each prompt. All processes must call where the model is sharded."""
        if not self.prompts:
            return ()
        self.model.eval()
        completions = lend(
            self.objective, lambda: complete_texts(self.model, self.tokenizer, self.prompts, self.settings)
        )
        self.model.train()
        return completions
