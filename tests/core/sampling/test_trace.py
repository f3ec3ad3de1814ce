"""The trace page, as data and in a real browser."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dlm.sampling import iter_generate
from dlm.sampling.pieces import pieces_of
from dlm.sampling.trace import Trace

PROMPT = "is <b>\u2028</script>"


@pytest.fixture(scope="module")
def states(tokenizer: Any, make_model: Any) -> list[Any]:
    ids = tokenizer(PROMPT, add_special_tokens=False)["input_ids"]
    return list(
        iter_generate(
            make_model(mask_token_id=47),
            torch.tensor([ids]),
            gen_length=12,
            steps=6,
            block_length=6,
            temperature=1.0,
            remasking={"name": "remdm", "rate": 0.8},
            suppress_tokens=range(48, 50),
        )
    )


@pytest.fixture(scope="module")
def page(states: list[Any], tokenizer: Any) -> str:
    trace = Trace(tokenizer=tokenizer, title=PROMPT)
    assert list(trace.follow(states)) == states
    return trace.html()


def text_at(state: Any, tokenizer: Any) -> str:
    pieces = [tokenizer.decode([each]) for each in state.sequences[0].tolist()]
    return "".join(
        "\u2592" if hidden else piece for piece, hidden in zip(pieces, state.masked[0].tolist(), strict=True)
    )


def test_the_page_is_self_contained_and_holds_every_step(page: str, states: list[Any], tokenizer: Any) -> None:
    for outside in ("http:", "https:", "src=", "href=", "@import", "url("):
        assert outside not in page
    assert page.count("</script>") == 1, "text of the prompt must not end the script"
    data = json.loads(page.partition("const trace = ")[2].partition(";\n")[0])
    assert len(data["steps"]) == len(states)
    assert data["given"] == (~states[0].masked[0]).tolist()
    shown: list[str | None] = [None] * len(data["given"])
    for step, state in zip(data["steps"], states, strict=True):
        for position, piece, _ in step["changes"]:
            shown[position] = piece
        assert "".join("\u2592" if piece is None else piece for piece in shown) == text_at(state, tokenizer)
        assert step["forwards"] == state.num_forwards


def test_nothing_is_shown_behind_the_end_of_a_text(tokenizer: Any, make_model: Any) -> None:
    """What the rest is filled up with was not written, and nobody is certain of it."""
    ids = torch.tensor([tokenizer(PROMPT, add_special_tokens=False)["input_ids"]])
    model, settings = make_model(mask_token_id=47), {"gen_length": 12, "steps": 12, "block_length": 4}
    eos_id = int(list(iter_generate(model, ids, **settings))[-1].sequences[0, ids.shape[1] + 5])
    states = list(iter_generate(model, ids, **settings, eos_id=eos_id))
    trace = Trace(tokenizer=tokenizer, title="")
    list(trace.follow(states))
    shown = {position: (piece, confidence) for step in trace._steps for position, piece, confidence in step["changes"]}
    filled = [position for position in range(ids.shape[1], len(shown)) if states[-1].committed_step[0, position] < 0]
    assert filled
    assert {shown[position] for position in filled} == {("", 0.0)}
    assert {int(states[-1].sequences[0, position]) for position in filled} == {eos_id}


def test_the_slider_moves_through_the_steps_in_a_browser(
    browser: Any, page: str, states: list[Any], tokenizer: Any, tmp_path: Path
) -> None:
    path = tmp_path / "trace.html"
    path.write_text(page, encoding="utf-8")
    browser.open(path.as_uri())
    text = "document.getElementById('text').textContent"
    last = len(states) - 1
    assert browser.evaluate("document.getElementById('step').max") == str(last)
    assert browser.evaluate("document.getElementById('title').textContent") == PROMPT
    assert browser.evaluate(text) == text_at(states[-1], tokenizer)
    browser.evaluate("document.getElementById('step').focus()")
    browser.press("Home", 36)
    assert browser.evaluate(text) == text_at(states[0], tokenizer)
    for number in range(1, last + 1):
        browser.press("ArrowRight", 39)
        assert browser.evaluate("document.getElementById('step').value") == str(number)
        assert browser.evaluate(text) == text_at(states[number], tokenizer)
        status = browser.evaluate("document.getElementById('status').textContent")
        assert f"step {number} of {last}, {int(states[number].masked.sum())} masked" in status
    assert browser.evaluate("document.querySelectorAll('#times i').length") == len(states)
    browser.evaluate("document.querySelector('input[value=order]').click()")
    assert browser.evaluate("document.getElementById('low').textContent") == "first"
    browser.evaluate("document.getElementById('play').click()")
    assert browser.evaluate("document.getElementById('play').textContent") == "Pause"


def test_pieces_join_to_the_text_and_characters_of_several_tokens_stay_whole() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    ids = tokenizer("a 日本 é", add_special_tokens=False)["input_ids"]
    pieces = pieces_of(tokenizer, ids)
    assert "".join(piece or "" for piece in pieces) == "a 日本 é"
    assert [piece for piece in pieces if piece] == ["a", " ", "日", "本", " ", "é"]
    with_gap: list[int | None] = [*ids[:3], None, *ids[4:]]
    assert pieces_of(tokenizer, with_gap)[3] is None
    assert "".join(piece or "" for piece in pieces_of(tokenizer, with_gap)).startswith("a ")
