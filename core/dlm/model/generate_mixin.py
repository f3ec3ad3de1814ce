"""``model.generate`` of transformers on the model class: hands over to the sampler."""

from typing import Any

from torch import Tensor


class GeneratesByUnmasking:
    """Gives a model ``generate`` with the argument names of transformers, by iterative unmasking.

    (transformers takes any base with "GenerationMixin" in its name for its own.)
    """

    def generate(self, inputs: Tensor | None = None, **options: Any) -> Any:
        """Continue prompts: ids (B, prompt + new) int64, as transformers returns them.

        Args:
            inputs: (B, P) int64; also as ``input_ids``, so that ``generate(**tokenizer(...))`` works.
            **options: ``attention_mask``, ``max_new_tokens`` or ``max_length``, ``do_sample``, ``temperature``,
                ``eos_token_id``, ``pad_token_id``, ``num_return_sequences``, ``streamer``, ``generation_config``,
                ``return_dict_in_generate``; and the arguments of :func:`dlm.generate` by their own names.

        Raises:
            UserInputError: an option that means nothing here (beams, for instance), or one of :func:`dlm.generate`'s.
        """
        # The sampler imports the models.
        from dlm.sampling.hugging_face import generate_like_transformers

        return generate_like_transformers(self, inputs, **options)
