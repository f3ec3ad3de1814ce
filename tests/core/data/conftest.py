"""Shared inputs of the data tests."""

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from dlm.data.packing import TextRows, text_rows
from dlm.data.sources import MemorySource, load_source
from dlm.data.text_column import read_texts
from dlm.data.token_store import TokenStore, TokenWriter
from dlm.data.tokenization import Documents
from dlm.data.tokenizer_training import train_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(read_texts(load_source("python-docs"), "text"), vocab_size=400)


@pytest.fixture(scope="session")
def make_store():
    def make(*documents: list[int], shard_tokens: int = 1 << 26) -> TokenStore:
        writer = TokenWriter(shard_tokens=shard_tokens)
        for document in documents:
            writer.append([np.asarray(document, np.int32)])
        return writer.finish()

    return make


@pytest.fixture(scope="session")
def store_documents():
    def store(texts, tokenizer: PreTrainedTokenizerFast) -> TokenStore:
        source = MemorySource("texts", tuple({"text": text} for text in texts))
        writer = TokenWriter()
        for part in Documents(source, "text", tokenizer).parts():
            writer.append(part.ids)
        return writer.finish()

    return store


@pytest.fixture(scope="session")
def make_rows(make_store):
    def make(num_rows: int, length: int = 4) -> TextRows:
        """Rows whose ids tell their numbers: row i is [i, i, ...]."""
        return text_rows(make_store(*([number] * length for number in range(num_rows))), max_length=length)

    return make
