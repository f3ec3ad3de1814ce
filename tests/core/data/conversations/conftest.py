"""Shared inputs of the conversation tests."""

import copy

import pytest
from transformers import PreTrainedTokenizerFast

from dlm.data.sources import MemorySource, load_source
from dlm.data.text_column import read_texts
from dlm.data.tokenizer_training import train_tokenizer

# A template in the usual markup: trims texts, thinks before the last answer unless told not to, like several models do.
TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' }}"
    "{%- if message.role == 'assistant' and loop.last %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
    "{{- message.content | trim }}{{- '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
    "{%- endif %}"
)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(read_texts(load_source("python-docs"), "text"), vocab_size=300)


@pytest.fixture
def chat_tokenizer(shared_chat_tokenizer) -> PreTrainedTokenizerFast:
    """A new one each time, since tests change it."""
    return copy.deepcopy(shared_chat_tokenizer)


@pytest.fixture(scope="session")
def shared_chat_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = train_tokenizer(read_texts(load_source("python-docs"), "text"), vocab_size=300)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.chat_template = TEMPLATE
    return tokenizer


@pytest.fixture(scope="session")
def source_of():
    def make(*rows) -> MemorySource:
        return MemorySource("a-set", rows)

    return make


@pytest.fixture(scope="session")
def chat():
    def make(*texts: str, system: str | None = None) -> dict:
        roles = ("human", "gpt")
        turns = [{"from": roles[number % 2], "value": text} for number, text in enumerate(texts)]
        return {"conversations": turns, "system": system}

    return make
