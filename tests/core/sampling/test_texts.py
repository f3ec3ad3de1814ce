"""Texts in and out, as the trainer and the commands use them."""

from typing import Any

import pytest
import torch

from dlm.errors import ModelError, UserInputError
from dlm.sampling import complete_texts, fill_passage, generate
from dlm.sampling.arguments import settings_of
from dlm.sampling.prompts import infill_ids, prompt_ids, rendering_of

SETTINGS: dict[str, Any] = {"gen_length": 10, "steps": 10}


@pytest.fixture(scope="module")
def letters(make_model: Any, tokenizer: Any) -> Any:
    return make_model(mask_token_id=tokenizer.mask_token_id, eos_token_id=tokenizer.eos_token_id)


def test_completions_do_not_depend_on_the_prompts_beside_them(letters: Any, tokenizer: Any) -> None:
    prompts = ["hello there", "", "a", "is it?"]
    together = complete_texts(letters, tokenizer, prompts, settings_of({**SETTINGS, "seed": 1}))
    assert [each.prompt for each in together] == prompts
    for each in together:
        if each.prompt:
            (alone,) = complete_texts(letters, tokenizer, [each.prompt], settings_of({**SETTINGS, "seed": 1}))
            assert alone.ids == each.ids
            assert alone.text == each.text
    assert complete_texts(letters, tokenizer, [], settings_of(SETTINGS)) == []


def test_completions_are_those_of_the_loop_cut_at_the_end_of_the_text(letters: Any, tokenizer: Any) -> None:
    (found,) = complete_texts(letters, tokenizer, ["hello"], settings_of(SETTINGS))
    ids = torch.tensor([tokenizer("hello", add_special_tokens=False)["input_ids"]])
    loop = generate(letters, ids, suppress_tokens=[48, 49], **SETTINGS)
    assert found.ids == tuple(loop.sequences[0, 5:].tolist())
    assert found.num_forwards == loop.num_forwards
    assert "<|" not in found.text
    assert max(found.ids) < 48, "rows of the embedding beyond the tokenizer stand for no text"


def test_completions_end_where_the_settings_say(letters: Any, tokenizer: Any) -> None:
    (free,) = complete_texts(letters, tokenizer, ["hello"], settings_of({**SETTINGS, "eos": "free"}))
    end = free.ids[3]
    before = free.ids[: free.ids.index(end)]
    for eos_id in (end, [0, end]):
        (found,) = complete_texts(letters, tokenizer, ["hello"], settings_of({**SETTINGS, "eos_id": eos_id}))
        assert found.text == tokenizer.decode(before, skip_special_tokens=True)


def test_a_passage_is_filled_at_its_gaps_only(letters: Any, tokenizer: Any) -> None:
    ids = torch.tensor(tokenizer("the value of the class", add_special_tokens=False)["input_ids"])
    masked = torch.zeros(len(ids), dtype=torch.bool)
    masked[[0, 4, 5, 6, 20]] = True
    filled = fill_passage(letters, tokenizer, ids, masked)
    assert filled[~masked].equal(ids[~masked])
    assert not (filled == tokenizer.mask_token_id).any()
    hidden = torch.where(masked, 3, ids)
    assert fill_passage(letters, tokenizer, hidden, masked).equal(filled), "what is under the mask is not looked at"
    assert fill_passage(letters, tokenizer, ids, masked & False).equal(ids)


def test_a_model_trained_on_conversations_is_asked_as_it_was_trained(make_model: Any, tokenizer: Any) -> None:
    model = make_model(mask_token_id=47, prompt_rendering="plain")
    rendering = rendering_of(model.config, tokenizer)
    assert rendering is not None
    text_ids = tokenizer("hi", add_special_tokens=False)["input_ids"]
    assert prompt_ids(tokenizer, "hi", rendering) == text_ids
    assert rendering_of(make_model().config, tokenizer) is None
    model.config.prompt_rendering = "sonnet"
    with pytest.raises(ModelError, match="sonnet"):
        rendering_of(model.config, tokenizer)


def test_special_names_in_a_prompt_are_text_and_masks_are_refused(tokenizer: Any) -> None:
    end = tokenizer.eos_token_id
    assert end not in prompt_ids(tokenizer, "a <|end|> b", None)
    for text in ("a <|mask|>", "<|mask:3|> b"):
        with pytest.raises(UserInputError, match="--infill"):
            prompt_ids(tokenizer, text, None)


def test_gaps_are_counted(tokenizer: Any) -> None:
    mask = tokenizer.mask_token_id
    ids = infill_ids(tokenizer, "a<|mask:3|>b<|mask|>", mask)
    assert [each == mask for each in ids] == [False, True, True, True, False, True]


@pytest.mark.parametrize("gap", ["<|mask:999999999|>", f"<|mask:{'9' * 5000}|>", "<|mask:1000000|>" * 2])
def test_no_gap_is_longer_than_memory(tokenizer: Any, gap: str) -> None:
    with pytest.raises(UserInputError, match="at most 1048576 tokens"):
        infill_ids(tokenizer, f"a{gap}b", tokenizer.mask_token_id)
    with pytest.raises(UserInputError, match="at least one mask"):
        infill_ids(tokenizer, "a<|mask:000|>b", tokenizer.mask_token_id)
