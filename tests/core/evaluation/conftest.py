"""Random models with seven ids, small enough that everything can be enumerated."""

from typing import Any

import pytest
import torch

from dlm.model import Qwen3LLadaConfig, Qwen3LLadaForMaskedLM

MASK_ID, NUM_IDS = 6, 6


def random_model(seed: int = 0, dtype: torch.dtype = torch.float64, **config: Any) -> Any:
    """Seven ids: six of texts, then the mask, which the random head proposes like any other."""
    settings: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "vocab_size": 7,
        "mask_token_id": MASK_ID,
        "max_position_embeddings": 64,
        "initializer_range": 0.5,
        "tie_word_embeddings": False,
        **config,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Qwen3LLadaForMaskedLM(Qwen3LLadaConfig(**settings)).to(dtype).eval()


@pytest.fixture(scope="session")
def make_model() -> Any:
    """``make_model(seed, dtype, **config)``."""
    return random_model
