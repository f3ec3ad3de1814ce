"""``dlm serve`` as its clients see it: OpenAI's own client and plain HTTP, on a real port."""

import json
from pathlib import Path
from typing import Any

import attrs
import openai
import pytest
import torch

import dlm
from dlm.data.conversations.rendering import encode_text
from dlm.errors import DlmError
from dlm.sampling.arguments import settings_of
from dlm.sampling.session import Session
from dlm.serving.api_errors import ApiError
from dlm.serving.limits import Limits
from dlm.serving.requests import ChatBody, CompletionBody, InfillBody, wanted_of

from .conftest import Server

PROMPT = "what is it?"
USER = {"role": "user", "content": "who?"}


@pytest.fixture(scope="module")
def session(folder: Path) -> Session:
    return Session.open(str(folder), settings_of({}), dtype="float64")


def written(session: Session, prompt: str, key: int = 0, **settings: Any) -> str:
    """The text of ``dlm.generate`` for one prompt."""
    ids = session.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    used = {"suppress_tokens": session.settings.suppress_tokens, "eos_id": session.eos_ids, "block_length": 8}
    output = dlm.generate(session.model, torch.tensor([ids]), row_keys=torch.tensor([key]), **{**used, **settings})
    found = output.sequences[0, len(ids) :].tolist()
    ends = [index for index, each in enumerate(found) if each in session.eos_ids]
    return str(session.tokenizer.decode(found[: ends[0] if ends else None], skip_special_tokens=True))


def test_a_completion_is_that_of_generate(server: Server, session: Session) -> None:
    answer = server.client.completions.create(model=server.model, prompt=PROMPT, max_tokens=24, seed=3, n=2)
    assert [each.text for each in answer.choices] == [
        written(session, PROMPT, key, gen_length=24, seed=3) for key in range(2)
    ]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(PROMPT)
    assert {each.finish_reason for each in answer.choices} <= {"stop", "length"}


def test_settings_of_the_sampler_are_under_dlm(server: Server, session: Session) -> None:
    own = {"steps": 6, "remasking": {"name": "random_topk", "temperature": 0.5}, "block_length": 16, "eos": "free"}
    answer = server.client.completions.create(
        model=server.model, prompt=PROMPT, max_tokens=24, temperature=0.8, extra_body={"dlm": {**own, "seed": 5}}
    )
    assert answer.choices[0].text == written(session, PROMPT, gen_length=24, temperature=0.8, seed=5, **own)


def test_an_answer_names_the_seed_that_makes_it_come_again(server: Server) -> None:
    asked = {"prompt": PROMPT, "max_tokens": 24, "temperature": 1.0}
    first, second = (server.post("/v1/completions", asked).json for _ in range(2))
    assert first["dlm"]["seed"] != second["dlm"]["seed"]
    assert first["choices"][0]["text"] != second["choices"][0]["text"]
    again = server.post("/v1/completions", {**asked, "seed": first["dlm"]["seed"]}).json
    assert again["choices"] == first["choices"]


@pytest.mark.parametrize("remasking", ["low_confidence", "remdm"])
def test_a_stream_joins_to_the_answer(server: Server, remasking: str) -> None:
    asked: dict[str, Any] = {
        "model": server.model,
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "hi"}]},
            {"role": "assistant", "content": "hello"},
            {"role": "user", "content": "who are you?"},
        ],
        "max_completion_tokens": 32,
        "n": 2,
        "seed": 1,
        "extra_body": {"dlm": {"remasking": remasking}},
    }
    whole = server.client.chat.completions.create(**asked)
    texts, pieces = {0: "", 1: ""}, 0
    reasons: dict[int, str | None] = {}
    usage = None
    for chunk in server.client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            pieces += bool(choice.delta.content)
            reasons[choice.index] = choice.finish_reason or reasons.get(choice.index)
    assert texts == {choice.index: choice.message.content for choice in whole.choices}
    assert reasons == {choice.index: choice.finish_reason for choice in whole.choices}
    assert usage == whole.usage
    assert pieces > 4


def test_the_answer_ends_before_a_stop(server: Server) -> None:
    asked = {"prompt": PROMPT, "max_tokens": 32, "seed": 0, "dlm": {"eos": "free"}}
    text = server.post("/v1/completions", asked).json["choices"][0]["text"]
    stop = text[9:12]
    place = text.index(stop)
    stopped = server.post("/v1/completions", {**asked, "stop": ["\u2603", stop]}).json
    assert stopped["choices"][0]["text"] == text[:place]
    assert stopped["choices"][0]["finish_reason"] == "stop"
    assert stopped["usage"]["completion_tokens"] == place + 3
    stream = server.post("/v1/completions", {**asked, "stop": stop, "stream": True}).text
    lines = [line.removeprefix("data: ") for line in stream.splitlines() if line]
    assert lines.pop() == "[DONE]"
    assert "".join(json.loads(line)["choices"][0]["text"] for line in lines) == text[:place]


def test_gaps_are_filled(server: Server, session: Session) -> None:
    text = "the <|mask:3|> of it<|mask|>"
    (task,) = session.tasks((), (text,))
    (batch,) = session.batches([task], 1)
    *_, state = session.states(batch)
    (result,) = session.results(batch, state)
    answer = server.post("/v1/infill", {"prompt": text, "seed": 0}).json
    assert answer["choices"][0]["text"] == result.text


def test_models_and_health(server: Server) -> None:
    assert [each.id for each in server.client.models.list()] == [server.model]
    assert server.client.models.retrieve(server.model).id == server.model
    assert server.ask("GET", "/health").json == {"status": "ok"}
    with pytest.raises(openai.NotFoundError, match="no model 'gpt' here"):
        server.client.completions.create(model="gpt", prompt=PROMPT)


@pytest.mark.parametrize(
    ("path", "body", "param", "message"),
    [
        ("completions", {"prompt": "a", "logprobs": 3}, "logprobs", "means nothing"),
        ("completions", {"prompt": "a", "presence_penalty": 0.5}, "presence_penalty", "means nothing"),
        ("completions", {"prompt": "a", "max_tokns": 3}, None, "did you mean 'max_tokens'"),
        ("completions", {"prompt": "a", "max_tokens": 1000}, None, "context of 256"),
        ("completions", {"prompt": "a", "max_tokens": 8, "dlm": {"gen_length": 8}}, "dlm.gen_length", "twice"),
        ("completions", {"prompt": "a", "dlm": {"remasking": "lowest"}}, "dlm", "remasking"),
        ("completions", {"prompt": "a", "dlm": {"steps": 1 << 40}}, "dlm.steps", "at most"),
        ("completions", {"prompt": "a", "dlm": {"steps": 1}, "max_tokens": 64}, None, "steps of at least 8"),
        ("completions", {"prompt": "a <|mask|>"}, None, "mask"),
        ("completions", {"prompt": [1, 99]}, "prompt", "0 to 59"),
        ("completions", {"prompt": "a", "stop": ["a"] * 5}, "stop", "at most 4"),
        ("chat/completions", {"messages": [{"role": "user", "content": "a"}], "tools": [{}]}, "tools", "means nothing"),
        ("chat/completions", {"messages": [{"role": "assistant", "content": "a"}]}, "messages", "must be user"),
        ("chat/completions", {"messages": []}, None, "messages"),
        ("infill", {"prompt": "a"}, None, "no gap"),
        ("infill", {"prompt": "<|mask|>", "max_tokens": 3}, "max_tokens", "leave max_tokens out"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_is_refused(
    server: Server, path: str, body: dict[str, Any], param: str | None, message: str, stream: bool
) -> None:
    answer = server.post(f"/v1/{path}", {**body, "stream": stream})
    assert answer.status == 400, answer.text
    error = answer.json["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert message in error["message"]


def test_what_asks_for_nothing_is_let_through(server: Server) -> None:
    body = {"prompt": PROMPT, "max_tokens": 8, "top_p": 1, "presence_penalty": 0.0, "logprobs": None, "user": "me"}
    assert server.post("/v1/completions", body).status == 200
    with pytest.raises(openai.BadRequestError, match="top_p means nothing") as caught:
        server.client.completions.create(model=server.model, prompt=PROMPT, top_p=0.5)
    assert caught.value.code == "unsupported_parameter"


@pytest.mark.parametrize("stream", [False, None])
def test_options_of_a_stream_are_refused_without_one(server: Server, stream: bool | None) -> None:
    body = {"prompt": PROMPT, "max_tokens": 8, "stream": stream, "stream_options": {"include_usage": True}}
    answer = server.post("/v1/completions", body)
    assert answer.status == 400, answer.text
    assert (answer.json["error"]["param"], answer.json["error"]["message"]) == (
        "stream_options",
        "stream_options go with stream: true",
    )


@pytest.mark.parametrize(
    ("method", "path", "content", "headers", "status"),
    [
        ("POST", "/v1/completions", b"{", {}, 400),
        ("POST", "/v1/completions", b"\xff\xfe", {}, 400),
        ("POST", "/v1/completions", b"[" * 15000, {}, 400),
        ("POST", "/v1/completions", b"x" * 30000, {}, 413),
        ("POST", "/v1/completions", b"{}", {"Content-Type": "text/plain"}, 415),
        ("GET", "/v1/completions", None, {}, 405),
        ("GET", "/v1/nothing", None, {}, 404),
    ],
)
def test_other_errors_have_the_same_form(
    server: Server, method: str, path: str, content: bytes | None, headers: dict[str, str], status: int
) -> None:
    answer = server.ask(method, path, content, **headers)
    assert answer.status == status
    assert set(answer.json["error"]) == {"message", "type", "param", "code"}


def test_a_published_model_is_asked_with_its_own_template(folder: Path, full_folder: Path) -> None:
    session = Session.open(str(full_folder), settings_of({}))
    body = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "a"}, USER]}
    with pytest.raises(ApiError, match="not trained on conversations"):
        wanted_of(ChatBody, body, session, limits())
    session.tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    wanted = wanted_of(ChatBody, body, session, limits())
    assert session.tokenizer.decode(wanted.prompts[0]) == "user: hi\nassistant: a\nuser: who?\nassistant: "
    completion = wanted_of(CompletionBody, {"prompt": "hi"}, session, limits())
    assert completion.prompts == (tuple(session.tokenizer.encode("hi")),)


def limits(**said: Any) -> Limits:
    return Limits(**{"max_rows": 8, "max_waiting": 64, "max_length": None, "max_body": 1 << 20, "seconds": 60, **said})


@pytest.mark.parametrize(
    ("server_says", "most", "prompt", "said", "fits"),
    [
        ({}, 100, "a" * 10, {}, {"gen_length": 90}),
        ({"gen_length": 200}, None, "a" * 100, {}, {"gen_length": 156}),
        ({"block_length": 64}, None, "a" * 250, {}, {"gen_length": 6, "block_length": 6}),
        ({"block_length": 64}, None, "a", {"max_tokens": 8, "dlm": {"block_length": None}}, {"block_length": None}),
        ({"steps": 128}, None, "a", {"max_tokens": 7}, {"gen_length": 7, "steps": 32}),
    ],
)
def test_what_the_server_says_gives_way_where_a_request_says_nothing(
    full_folder: Path, server_says: Any, most: int | None, prompt: str, said: Any, fits: dict[str, Any]
) -> None:
    session = Session.open(str(full_folder), settings_of(server_says))
    asked = {"prompt": [prompt, "b"], "max_tokens": None, **said}
    settings, of_another = wanted_of(CompletionBody, asked, session, limits(max_length=most)).settings
    assert {name: getattr(settings, name) for name in fits} == fits
    (alone,) = wanted_of(CompletionBody, {**asked, "prompt": "b", "seed": of_another.seed}, session, limits()).settings
    assert of_another == attrs.evolve(alone, gen_length=of_another.gen_length), "no prompt changes another's settings"
    with pytest.raises(DlmError):
        wanted_of(CompletionBody, {"prompt": prompt, "dlm": {"block_length": 65, "gen_length": 64}}, session, limits())


def test_too_many_texts_are_refused_before_any_is_read(session: Session) -> None:
    """Meanwhile nobody else is answered."""

    def unread(*_: Any, **__: Any) -> None:
        raise AssertionError("the prompt was read")

    blind = attrs.evolve(session, tokenizer=unread, rendering=None)
    for body in ({"prompt": ["a"] * 65}, {"prompt": [[1]] * 33, "n": 2}):
        with pytest.raises(ApiError, match=r"6[56] texts are more than the 64"):
            wanted_of(CompletionBody, body, blind, limits())


def test_a_text_with_gaps_is_read_no_further_than_it_may_go(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def count(text: str, tokenizer: Any) -> list[int]:
        read.append(text)
        return encode_text(text, tokenizer)

    monkeypatch.setattr("dlm.sampling.prompts.encode_text", count)
    with pytest.raises(DlmError, match="at most 256 tokens"):
        wanted_of(InfillBody, {"prompt": "a<|mask|>" * 20_000}, session, limits())
    assert len(read) == 128


def test_an_answer_without_text_can_be_part_of_a_conversation(server: Server) -> None:
    messages = [USER, {"role": "assistant", "content": ""}, USER]
    assert server.post("/v1/chat/completions", {"messages": messages, "max_tokens": 8}).status == 200
    messages[0] = {"role": "user", "content": ""}
    assert server.post("/v1/chat/completions", {"messages": messages, "max_tokens": 8}).status == 400


def test_half_a_character_in_a_key_is_refused_like_any_other(server: Server) -> None:
    answer = server.post("/v1/chat/completions", b'{"messages": [{"role": "user", "content": "a", "\\ud800": 1}]}')
    assert answer.status == 400
    assert "\\ud800 means nothing" in answer.json["error"]["message"]


def test_of_an_infill_what_is_written_is_counted(server: Server) -> None:
    body = {"prompt": "the <|mask:3|> of it<|mask|>", "seed": 0}
    answer = server.post("/v1/infill", body).json
    assert answer["usage"] == {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}
    stop = server.post("/v1/infill", {**body, "stop": " of"}).json
    assert stop["choices"][0]["text"] == answer["choices"][0]["text"][:7]
    assert stop["usage"]["completion_tokens"] == 3
