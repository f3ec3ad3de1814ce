"""Configuration of a Qwen3 decoder that reads in both directions and fills in masked positions."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import Qwen3Config


@strict
class Qwen3LLadaConfig(Qwen3Config):
    """All fields of ``Qwen3Config``, and what a masked diffusion language model needs besides.

    The architecture is Qwen3's. Attention is bidirectional because ``is_causal`` is False, which transformers' mask
    construction obeys for every backend.

    Raises:
        StrictDataclassFieldValidationError: A field of the wrong type.
        ValueError: ``is_causal`` is True, or ``mask_token_id`` lies outside the vocabulary.
    """

    model_type = "qwen3llada"

    is_causal: bool = False
    """Always False."""
    use_cache: bool = False
    """Always False: a converted configuration that says otherwise is overruled, in the forward pass too."""
    mask_token_id: int | None = None
    """Id of the mask token, within [0, vocab_size)."""
    mask_token: str | None = None
    """Text of the mask token."""
    attention_bias_component: dict[str, Any] | None = None
    """Attention bias the model was trained with: ``{"name": "plugin:name", **options}``; None: nothing is hidden.
    (``attention_bias`` is Qwen3's own field and asks whether the projections have bias terms.)"""
    block_length: int | None = None
    """Tokens in a block of the answer, for biases and samplers that work by blocks."""
    logit_shift: bool = False
    """Whether position i is predicted from the hidden state of position i - 1, as in the autoregressive parent."""
    prompt_rendering: str | None = None
    """Name of the way conversations were written as text in training."""
    prompt_thinking: bool = False
    """Whether answers were trained with reasoning before them: prompts ask for it, where the chat template can."""

    def __post_init__(self, **kwargs: Any) -> None:
        self.use_cache = False
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]
        if self.is_causal:
            raise ValueError("is_causal: a qwen3llada model is bidirectional; leave is_causal at false")
        if self.mask_token_id is not None and not 0 <= self.mask_token_id < self.vocab_size:
            raise ValueError(
                f"mask_token_id: {self.mask_token_id} is outside the vocabulary; "
                f"it must lie in [0, {self.vocab_size - 1}]"
            )
