"""Tiny models for the sampler's tests."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dlm.model import Qwen3LLadaConfig, Qwen3LLadaForMaskedLM

MakeModel = Callable[..., Any]


@lru_cache(maxsize=32)
def shared_model(seed: int = 0, **config: Any) -> Any:
    """A tiny float64 model that no test may change."""
    return tiny_model(seed, **config)


def tiny_model(seed: int = 0, dtype: torch.dtype = torch.float64, **config: Any) -> Any:
    """A random model that has opinions: 50 ids, the last of them the mask."""
    settings: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "vocab_size": 50,
        "mask_token_id": 49,
        "max_position_embeddings": 256,
        "initializer_range": 0.3,
        "tie_word_embeddings": False,
        **config,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Qwen3LLadaForMaskedLM(Qwen3LLadaConfig(**settings)).to(dtype).eval()
    with torch.no_grad():
        # No trained model proposes the mask; a random one would.
        model.lm_head.weight[model.config.mask_token_id] = 0.0
    return model


@pytest.fixture(scope="session")
def make_model() -> MakeModel:
    """Build a tiny model: ``make_model(seed, dtype, **config)``."""
    return tiny_model


@pytest.fixture(scope="session")
def frozen_model() -> MakeModel:
    """The same, built once for each set of arguments; not to be changed."""
    return shared_model


@pytest.fixture(scope="session")
def model() -> Any:
    """One tiny float64 model, not to be changed."""
    return shared_model()


def letter_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character: ids 0 to 44 are printable characters, 45 is unknown, 46 end of text, 47 the mask."""
    letters = "abcdefghijklmnopqrstuvwxyz .,?!'\n0123456789-:"
    vocabulary = {letter: index for index, letter in enumerate(letters)} | {"<unk>": 45}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", eos_token="<|end|>", mask_token="<|mask|>"
    )


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """One token a character; not to be changed."""
    return letter_tokenizer()
