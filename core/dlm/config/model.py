"""Keys of section ``model`` (name, tokenizer, mask token, logit shift, dtype, attention), and of ``lora``."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import attrs
from attrs.validators import min_len, optional

from dlm.config.fields import POSITIVE, PROPER_FRACTION, section, setting


@attrs.frozen(kw_only=True)
class TokenizerTrainingConfig:
    """A tokenizer that is trained on the dataset of the run."""

    vocab_size: int = setting("Number of entries of the vocabulary, special tokens included.", 4096, POSITIVE)


@attrs.frozen(kw_only=True)
class TokenizerConfig:
    """A tokenizer that does not exist yet."""

    train: TokenizerTrainingConfig = section("Train a byte-level BPE tokenizer on the dataset.")


@attrs.frozen(kw_only=True)
class ModelConfig:
    """Which model is trained, and how it is loaded."""

    name_or_path: str | None = setting(
        "Hub name or folder of a decoder; null for a model from scratch, described by `config`.",
        None,
        optional(min_len(1)),
    )
    config: Mapping[str, Any] | None = setting(
        "Configuration of a model from scratch, keys as in transformers: {model_type: qwen3llada, hidden_size: 192}.",
        None,
    )
    tokenizer: str | TokenizerConfig | None = setting(
        "Hub name or folder; null for the model's own; {train: {vocab_size: 4096}} trains one on the dataset.", None
    )
    mask_token: str | None = setting(
        "Text of the mask token; null for the one the tokenizer declares, else <|mask|>, which is added.",
        None,
        optional(min_len(1)),
    )
    logit_shift: bool = setting(
        "Predict position i from hidden state i-1, as the autoregressive parent did.", default=False
    )
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = setting("Data type of the weights.", "float32")
    attn_implementation: Literal["sdpa", "eager"] = setting("Attention implementation of transformers.", "sdpa")


@attrs.frozen(kw_only=True)
class LoraConfig:
    """Low-rank adapters in place of full fine-tuning."""

    r: int = setting("Rank of the adapters.", 16, POSITIVE)
    alpha: float = setting("Scale: the adapters' output is multiplied by alpha / r.", 32.0, POSITIVE)
    dropout: float = setting("Dropout in front of the adapters.", 0.0, PROPER_FRACTION)
    targets: Sequence[str] | None = setting(
        "Names of the linear layers that get an adapter; null for all but the head.", None, optional(min_len(1))
    )
