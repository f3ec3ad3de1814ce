from pathlib import Path
from typing import Any

import pytest
import torch

from dlm.errors import ModelError
from dlm.model.tokenizer import (
    ensure_mask_token,
    extended,
    fit_vocabulary,
    load_tokenizer,
    num_ids,
    special_ids,
)


def test_a_new_mask_token_gets_the_next_id_and_survives_saving(tiny: Any, tmp_path: Path) -> None:
    tokenizer = tiny.tokenizer(150)
    assert ensure_mask_token(tokenizer, "<|mask|>") == 150
    assert ensure_mask_token(tokenizer, "<|mask|>") == 150
    assert tokenizer.encode("w5<|mask|>w6") == [5, 150, 6]
    assert tokenizer.decode([5, 150], skip_special_tokens=True) == "w5"
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert (loaded.mask_token, loaded.mask_token_id, num_ids(loaded)) == ("<|mask|>", 150, 151)


def test_the_size_of_qwen3_s_tokenizer_gives_the_mask_id_151669_without_a_resize(tiny: Any) -> None:
    tokenizer = tiny.tokenizer(151_669)
    mask_id = ensure_mask_token(tokenizer, "<|mask|>")
    assert mask_id == 151_669
    model = tiny.llada(vocab_size=151_936, hidden_size=8, head_dim=4, num_hidden_layers=1, tie_word_embeddings=True)
    assert fit_vocabulary(model, tokenizer, mask_id) == 151_936


def test_an_existing_token_is_reused(tiny: Any) -> None:
    tokenizer = tiny.tokenizer(150)
    assert ensure_mask_token(tokenizer, "w7") == 7
    assert num_ids(tokenizer) == 150
    assert tokenizer.mask_token == "w7"


def test_the_tokenizer_s_own_mask_token_is_taken_when_none_is_named(tiny: Any) -> None:
    tokenizer = tiny.tokenizer(150, mask_token="[MASK]")
    assert ensure_mask_token(tokenizer, None) == 150
    assert tokenizer.mask_token == "[MASK]"
    without = tiny.tokenizer(150)
    assert ensure_mask_token(without, None) == 150
    assert without.mask_token == "<|mask|>"


def test_a_declared_mask_token_that_is_replaced_is_said(tiny: Any, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = tiny.tokenizer(150, mask_token="[MASK]")
    ensure_mask_token(tokenizer, "[MASK]")
    assert not caplog.records
    assert ensure_mask_token(tokenizer, "<|mask|>") == 151
    assert [record.message for record in caplog.records] == [
        "mask token: <|mask|> replaces [MASK], which the tokenizer declares"
    ]


@pytest.mark.parametrize(("token", "message"), [("<eos>", "eos_token"), ("<unk>", "unk_token"), (" ", "empty")])
def test_tokens_that_cannot_be_the_mask_are_refused(tiny: Any, token: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        ensure_mask_token(tiny.tokenizer(), token)


def test_special_ids_are_those_that_are_not_text(tiny: Any) -> None:
    tokenizer = tiny.tokenizer(150)
    ensure_mask_token(tokenizer, "<|mask|>")
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|im_start|>"]})
    tokenizer.add_tokens(["plain"])
    assert special_ids(tokenizer) == [0, 1, 150, 151]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_vocabulary_that_does_not_fit_grows_by_as_little_as_possible(
    tiny: Any, tied: bool, dtype: torch.dtype
) -> None:
    model = tiny.qwen3(tie_word_embeddings=tied).to(dtype)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tokenizer = tiny.tokenizer(200)
    mask_id = ensure_mask_token(tokenizer, "<|mask|>")
    assert fit_vocabulary(model, tokenizer, mask_id) == 201
    assert model.config.vocab_size == 201
    assert (model.lm_head.weight is model.model.embed_tokens.weight) is tied
    for name, tensor in model.state_dict().items():
        old = before[name]
        assert torch.equal(tensor[: len(old)], old)
        if len(tensor) != len(old):
            mean = old.double().mean(0).to(dtype)
            assert torch.equal(tensor[200], mean)
    assert model(torch.tensor([[3, mask_id]])).logits.shape == (1, 2, 201)


def test_a_vocabulary_that_fits_is_left_alone(tiny: Any) -> None:
    model = tiny.qwen3()
    tokenizer = tiny.tokenizer(199)
    weight = model.model.embed_tokens.weight
    assert fit_vocabulary(model, tokenizer, ensure_mask_token(tokenizer, "<|mask|>")) == 200
    assert model.model.embed_tokens.weight is weight


@pytest.mark.parametrize("mask_id", [-1, 200, 5000])
def test_a_mask_id_that_neither_model_nor_tokenizer_has_is_refused(tiny: Any, mask_id: int) -> None:
    with pytest.raises(ModelError, match=rf"mask id {mask_id} is outside the vocabulary"):
        fit_vocabulary(tiny.qwen3(), tiny.tokenizer(150), mask_id)


def test_new_rows_are_the_mean_of_the_old_ones() -> None:
    rows = torch.arange(6.0).view(3, 2)
    expected = torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [2.0, 3.0], [2.0, 3.0]])
    assert torch.equal(extended(rows, 5), expected)


def test_a_folder_without_a_tokenizer_is_refused(tiny: Any, tmp_path: Path) -> None:
    tiny.qwen3().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="tokenizer"):
        load_tokenizer(tmp_path)
    with pytest.raises(ModelError, match="no such folder"):
        load_tokenizer(tmp_path / "absent")
