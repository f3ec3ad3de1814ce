"""Samples during training."""

from collections.abc import Sequence

import attrs
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dlm.config import SamplingConfig
from dlm.sampling.texts import Completion, complete_texts


@attrs.frozen(kw_only=True)
class Sampler:
    """Continues the prompts of the run file. Its randomness is keyed, so training does not notice."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    prompts: Sequence[str]
    sampling: SamplingConfig
    seed: int

    def __call__(self) -> Sequence[Completion]:
        """One completion for each prompt."""
        if not self.prompts:
            return ()
        self.model.eval()
        settings = attrs.asdict(self.sampling, recurse=False)
        completions = complete_texts(self.model, self.tokenizer, self.prompts, settings, seed=self.seed)
        self.model.train()
        return completions
