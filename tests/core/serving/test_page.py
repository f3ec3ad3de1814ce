"""The page at `/`, in a real browser: it shows the text as it is denoised, with any setting of the sampler."""

import time
from pathlib import Path
from typing import Any

import attrs
import torch

import dlm
from dlm.config.sampling_settings import SamplingSettings
from dlm.sampling.arguments import settings_of
from dlm.sampling.session import Session

from .conftest import Server

PROMPT = "what is <b>it?"


def set_value(browser: Any, selector: str, value: str) -> None:
    browser.evaluate(f"document.querySelector({selector!r}).value = {value!r}")


def status_with(browser: Any, end: str) -> str:
    deadline = time.monotonic() + 60
    while end not in (status := str(browser.evaluate("document.getElementById('status').textContent"))):
        assert time.monotonic() < deadline, status
        time.sleep(0.02)
    return status


def test_the_page_needs_nothing_from_elsewhere(server: Server) -> None:
    answer = server.ask("GET", "/")
    assert answer.headers["content-type"].startswith("text/html")
    for outside in ("http:", "https:", "src=", "href=", "@import", "url("):
        assert outside not in answer.text.replace(server.model, "")


def test_a_text_appears_as_it_is_denoised(server: Server, browser: Any, folder: Path) -> None:
    browser.open(f"{server.url}/")
    names = browser.evaluate("[...document.querySelectorAll('#settings input')].map((input) => input.name)")
    assert names == [field.name for field in attrs.fields(SamplingSettings)]
    assert browser.evaluate("document.querySelector('input[name=block_length]').placeholder") == "8"
    browser.evaluate(
        "seen = []; new MutationObserver(() => seen.push(document.getElementById('text').textContent))"
        ".observe(document.getElementById('status'), {childList: true})"
    )
    settings = {"gen_length": 24, "seed": 3, "eos": "free", "remasking": "random_topk", "temperature": 0.5}
    set_value(browser, "#prompt", PROMPT)
    for name, value in settings.items():
        set_value(browser, f"input[name={name}]", str(value))
    browser.evaluate("document.getElementById('go').click()")
    assert "0 masked" in status_with(browser, "done")
    session = Session.open(str(folder), settings_of({}), dtype="float64")
    ids = torch.tensor([session.tokenizer(PROMPT, add_special_tokens=False)["input_ids"]])
    suppressed = session.settings.suppress_tokens
    output = dlm.generate(session.model, ids, block_length=8, suppress_tokens=suppressed, **settings)
    text = session.tokenizer.decode(output.sequences[0])
    assert browser.evaluate("document.getElementById('text').textContent") == text
    numbers = [each.count("\u2592") for each in browser.evaluate("seen") if each]
    assert numbers == sorted(numbers, reverse=True)
    assert len(set(numbers)) > 6, "it appears step by step"
    colours = browser.evaluate("[...document.querySelectorAll('#text span')].map((span) => span.style.background)")
    assert sum("hsl" in each or "rgb" in each for each in colours) == 24


def test_gaps_errors_and_the_stop_button(server: Server, browser: Any) -> None:
    browser.open(f"{server.url}/")
    set_value(browser, "#prompt", "a<|mask:3|>b")
    browser.evaluate("document.getElementById('go').click()")
    status_with(browser, "done")
    text = browser.evaluate("document.getElementById('text').textContent")
    assert text[0] == "a"
    assert text[-1] == "b"
    set_value(browser, "input[name=gen_length]", "many")
    browser.evaluate("document.getElementById('go').click()")
    assert "gen_length: must be an integer" in status_with(browser, "not written")
    set_value(browser, "input[name=gen_length]", "200")
    browser.evaluate("document.getElementById('go').click()")
    status_with(browser, "masked")
    browser.evaluate("document.getElementById('stop').click()")
    status_with(browser, "stopped")
    deadline = time.monotonic() + 60
    while server.metric("dlm_rows_live"):
        assert time.monotonic() < deadline
