"""Real, tiny checkpoints and texts for runs from start to end."""

import json
import pydoc_data.topics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from dlm.data.tokenizer_training import train_tokenizer


@attrs.frozen
class Tiny:
    """What stands in for a model and a data set of the hub."""

    checkpoint: Path
    """An autoregressive Qwen3 folder with its tokenizer."""
    texts: Path
    """A jsonl file of English text."""


@pytest.fixture(scope="session")
def smallest_model() -> dict[str, Any]:
    """Section ``model`` of a run from scratch that takes a second."""
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "max_position_embeddings": 64,
    }
    return {"config": sizes, "tokenizer": {"train": {"vocab_size": 300}}}


@pytest.fixture(scope="session")
def tiny(made_once: Callable[[str, Callable[[Path], object]], Path]) -> Tiny:
    """Made once for all tests."""
    folder = made_once("tiny", make_tiny)
    return Tiny(checkpoint=folder / "qwen3", texts=folder / "texts.jsonl")


def make_tiny(folder: Path) -> None:
    topics = sorted(pydoc_data.topics.topics.values(), key=len)[20:50]
    rows = "".join(json.dumps({"text": text[:2000]}) + "\n" for text in topics)
    (folder / "texts.jsonl").write_text(rows, encoding="utf-8")
    tokenizer = train_tokenizer(topics, vocab_size=320, mask_token="<|unused|>")
    config = Qwen3Config(
        vocab_size=336,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    checkpoint = folder / "qwen3"
    Qwen3ForCausalLM(config).save_pretrained(checkpoint)
    tokenizer.save_pretrained(checkpoint)
