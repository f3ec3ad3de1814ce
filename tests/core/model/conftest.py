"""Tiny models and tokenizers, made on the spot."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from transformers.utils import logging

from dlm.model.configuration_qwen3llada import Qwen3LLadaConfig
from dlm.model.modeling_qwen3llada import Qwen3LLadaForMaskedLM

SIZES: dict[str, Any] = {
    "vocab_size": 200,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    # Large enough that attention is far from uniform, so that masks show.
    "initializer_range": 0.2,
}


class Tiny:
    """Builders of models of two layers and 200 ids, and of tokenizers of words ``w2``, ``w3``, ..."""

    sizes = SIZES

    def llada(self, implementation: str = "sdpa", *, seed: int = 0, **changes: Any) -> Qwen3LLadaForMaskedLM:
        config = Qwen3LLadaConfig(**{**SIZES, "mask_token_id": 199, **changes}, attn_implementation=implementation)
        torch.manual_seed(seed)
        return Qwen3LLadaForMaskedLM(config).eval()

    def qwen3(self, *, seed: int = 0, **changes: Any) -> Qwen3ForCausalLM:
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(Qwen3Config(**{**SIZES, **changes})).eval()

    def gpt2(self, *, seed: int = 0, **changes: Any) -> GPT2LMHeadModel:
        torch.manual_seed(seed)
        settings = {"vocab_size": 200, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, **changes}
        return GPT2LMHeadModel(GPT2Config(**settings, bos_token_id=0, eos_token_id=0)).eval()

    def tokenizer(self, num_ids: int = 150, **special: str) -> PreTrainedTokenizerFast:
        vocabulary = {"<unk>": 0, "<eos>": 1} | {f"w{index}": index for index in range(2, num_ids)}
        backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="<eos>", **special)


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    return Tiny()


@pytest.fixture(autouse=True)
def no_progress_bars() -> None:
    logging.disable_progress_bar()


@pytest.fixture
def write_checkpoint(tiny: Tiny, tmp_path: Path) -> Callable[..., Path]:
    """Write a model with a tokenizer and return the folder."""

    def write(model: Any, *, num_ids: int = 150, name: str = "source", **options: Any) -> Path:
        folder = tmp_path / name
        model.save_pretrained(folder, **options)
        tiny.tokenizer(num_ids).save_pretrained(folder)
        return folder

    return write
