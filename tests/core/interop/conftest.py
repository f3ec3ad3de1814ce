"""Tiny models with Qwen3's vocabulary, and their tokenizers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dlm.model import Qwen3LLadaConfig, Qwen3LLadaForMaskedLM

MASK, END, TURN_END = 151669, 151643, 151645
SHAPE: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.4,
}


def qwen_tokenizer(mask: str | None = "<|mask|>", mask_id: int = MASK, **added: int) -> PreTrainedTokenizerFast:
    """Words ``w0`` to ``w99``, Qwen's ends of text and turn, and a mask token."""
    special = {"<|endoftext|>": END, "<|im_end|>": TURN_END, **({mask: mask_id} if mask else {}), **added}
    vocabulary = {f"w{index}": index for index in range(100)} | special
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    roles = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "unk_token": "w0"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **roles)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    if mask is not None:
        tokenizer.add_special_tokens({"mask_token": mask})
    return tokenizer


@pytest.fixture
def trained(tmp_path: Path) -> Callable[..., Path]:
    """Write what block diffusion leaves in ``final/``: a random model with opinions."""

    def write(name: str = "final", tokenizer: Any = None, **changes: Any) -> Path:
        settings: dict[str, Any] = {
            **SHAPE,
            "head_dim": 8,
            "vocab_size": 151936,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
            "tie_word_embeddings": True,
            "mask_token": "<|mask|>",
            "mask_token_id": MASK,
            "eos_token_id": END,
            "attention_bias_component": {"name": "builtin:block_causal"},
            "block_length": 4,
            "block_origin": "document",
            "prompt_rendering": "chat_template",
            **changes,
        }
        torch.manual_seed(0)
        model = Qwen3LLadaForMaskedLM(Qwen3LLadaConfig(**settings)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.2 * torch.randn_like(parameter))
        model.save_pretrained(tmp_path / name)
        (tokenizer or qwen_tokenizer()).save_pretrained(tmp_path / name)
        return tmp_path / name

    return write
