"""Decoders of other families: the caches are exact there too."""

from typing import Any

import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.utils import logging

from dlm.sampling import generate

SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
    "initializer_range": 0.3,
    "is_causal": False,
    "use_cache": False,
    "mask_token_id": 49,
}
GROUPED: dict[str, Any] = {**SIZES, "num_key_value_heads": 1, "head_dim": 16}
FAMILIES = {
    "llama": (LlamaForCausalLM, LlamaConfig, GROUPED),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, GROUPED),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, GROUPED),
    "mistral": (MistralForCausalLM, MistralConfig, {**GROUPED, "sliding_window": None}),
    "gemma3": (Gemma3ForCausalLM, Gemma3TextConfig, {**GROUPED, "sliding_window": 128}),
    "gpt_neox": (GPTNeoXForCausalLM, GPTNeoXConfig, SIZES),
    "gpt2": (GPT2LMHeadModel, GPT2Config, SIZES),
}


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_exact_caches_are_exact_in_every_family(family: str, implementation: str) -> None:
    logging.set_verbosity_error()
    model_class, config_class, sizes = FAMILIES[family]
    torch.manual_seed(0)
    model = model_class(config_class(**sizes, attn_implementation=implementation)).double().eval()
    prompt = torch.randint(0, 49, (3, 9), generator=torch.Generator().manual_seed(1))
    attention_mask = torch.ones_like(prompt)
    attention_mask[1, :4] = 0
    for bias, cache in (("block", "side_by_side"), ("block", "prompt"), ("block_causal", "prompt")):
        arguments: dict[str, Any] = {"gen_length": 12, "block_length": 4, "steps": 9, "attention_bias": bias}
        plain = generate(model, prompt, attention_mask=attention_mask, cache="off", cfg_scale=0.5, **arguments)
        cached = generate(model, prompt, attention_mask=attention_mask, cache=cache, cfg_scale=0.5, **arguments)
        assert cached.sequences.equal(plain.sequences)
        assert cached.log_probabilities.allclose(plain.log_probabilities, atol=1e-9)
