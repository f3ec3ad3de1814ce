import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from dlm.data import tokenization
from dlm.data.sources import load_source
from dlm.data.text_column import read_texts
from dlm.data.tokenization import encode_texts
from dlm.data.tokenizer_training import train_tokenizer
from dlm.errors import DataError

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def python_docs():
    return read_texts(load_source("python-docs"), "text")


@settings(deadline=None, max_examples=100)
@given(text=texts)
def test_every_text_comes_back(tokenizer, text):
    (ids,) = encode_texts([text], tokenizer)
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_half_a_character_is_refused(tokenizer):
    with pytest.raises(DataError, match=r"the text 'a \\udc00' is not valid Unicode: a lone surrogate"):
        list(encode_texts(["fine", "a \udc00"], tokenizer))


@settings(deadline=None, max_examples=30)
@given(documents=st.lists(texts.filter(str.strip), min_size=1, max_size=8))
def test_stored_documents_are_the_texts_with_an_end_each(store_documents, tokenizer, documents):
    store = store_documents(documents, tokenizer)
    stored = [store.span(start, end) for start, end in itertools.pairwise(store.offsets.tolist())]
    assert {ids[-1] for ids in stored} == {tokenizer.eos_token_id}
    assert [tokenizer.decode(ids[:-1]) for ids in stored] == documents


def test_names_of_special_tokens_in_a_text_stay_text(tokenizer):
    text = "what <|endoftext|> and <|mask|> mean"
    (ids,) = encode_texts([text], tokenizer)
    assert not set(ids.tolist()) & set(tokenizer.all_special_ids)
    assert tokenizer.decode(ids) == text


def test_cutting_very_long_texts_changes_no_token(tokenizer, monkeypatch):
    text = "\n\n".join(python_docs())[:60_000]
    (whole,) = encode_texts([text], tokenizer)
    monkeypatch.setattr(tokenization, "_PIECE_CHARACTERS", 1000)
    assert len(list(tokenization._pieces(text))) > 40
    (in_pieces,) = encode_texts([text], tokenizer)
    assert np.array_equal(whole, in_pieces)


def test_batches_change_nothing(store_documents, tokenizer, monkeypatch):
    documents = list(python_docs())[:10]
    together = store_documents(documents, tokenizer)
    monkeypatch.setattr(tokenization, "_BATCH_TEXTS", 1)
    assert store_documents(documents, tokenizer).digest == together.digest


def test_mask_that_is_ordinary_text_is_refused():
    tokenizer = train_tokenizer(["a b"], vocab_size=258)
    # The letter itself as mask token: not a special token of the vocabulary, so every text may contain it.
    tokenizer._mask_token = None
    tokenizer.mask_token = "a"
    with pytest.raises(DataError, match="writes the mask token 'a' for ordinary text"):
        list(encode_texts(["banana"], tokenizer))


def test_tokenizer_without_end_is_refused(store_documents):
    tokenizer = train_tokenizer(["a b"], vocab_size=258)
    tokenizer.eos_token = None
    with pytest.raises(DataError, match="no end-of-text token"):
        store_documents(["a"], tokenizer)


@pytest.mark.parametrize("vocab_size", [258, 300, 400])
def test_trained_tokenizer_has_the_wanted_size(vocab_size):
    tokenizer = train_tokenizer(python_docs(), vocab_size=vocab_size, mask_token="<m>")
    assert len(tokenizer) == tokenizer.vocab_size == vocab_size
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.mask_token_id) == (0, 0, 1)
    assert tokenizer.mask_token == "<m>"


def test_training_twice_gives_the_same_tokenizer():
    one, other = (train_tokenizer(python_docs(), vocab_size=400) for _ in range(2))
    assert one.backend_tokenizer.to_str() == other.backend_tokenizer.to_str()


def test_trained_tokenizer_survives_saving(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "Some code:\n    x = [1, 2]  # ü <|mask|>\n"
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert (loaded.mask_token_id, loaded.eos_token_id, loaded.pad_token_id) == (1, 0, 0)
    assert loaded.decode(loaded(text)["input_ids"]) == text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 257}, "at least 258"),
        ({"vocab_size": 300, "mask_token": ""}, "mask_token: '' cannot be used"),
        ({"vocab_size": 300, "mask_token": "<|endoftext|>"}, "must be a text of its own"),
    ],
)
def test_tokenizer_that_cannot_be_trained_is_refused(options, message):
    with pytest.raises(DataError, match=message):
        train_tokenizer(["text"], **options)
