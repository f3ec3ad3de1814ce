"""Sample texts from prompts during training (``evaluation.sample_prompts``)."""

from collections.abc import Sequence

import attrs
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dlm.config.sampling_settings import SamplingSettings
from dlm.sampling.texts import Completion, complete_texts
from dlm.training.sharding import unsharded


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
        with unsharded(self.objective):
            completions = complete_texts(self.model, self.tokenizer, self.prompts, self.settings)
        self.model.train()
        return completions
