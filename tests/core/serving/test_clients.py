"""What clients do to a server: nonsense, keys, going away, crowds; and how it ends."""

import json
import random
import signal
import socket
import string
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner

from dlm.sampling.arguments import settings_of
from dlm.sampling.session import Session
from dlm_cli.main import cli

from .conftest import Server, serving
from .test_server import PROMPT, written

MALFORMED, MALFORMED_IN_FULL = 120, 500
CROWD, CROWD_SECONDS, CROWD_SECONDS_IN_FULL = 64, 4, 60
LONG = {"prompt": PROMPT, "max_tokens": 240, "dlm": {"eos": "free"}}
SLOW = {**LONG, "dlm": {"eos": "free", "steps": 960, "remasking": {"name": "remdm", "reconsider": True}}}


def any_value(chance: random.Random, depth: int = 0) -> Any:
    """A value that JSON can hold, or nearly."""
    kind = chance.randrange(9 if depth < 3 else 6)
    if kind == 0:
        return chance.choice([None, True, False])
    if kind == 1:
        return chance.choice([-1, 0, 1, 2, 3.5, -0.0, 1e308, 1 << 70, float("nan"), float("inf")])
    if kind < 5:
        return "".join(chance.choice(string.printable + "\0\ud800\u2603") for _ in range(chance.randrange(8)))
    if kind == 5:
        return chance.choice(["<|mask|>", "<|mask:0|>", "<|mask:999999999|>", "low_confidence", "dual", "user"])
    if kind == 6:
        return [any_value(chance, depth + 1) for _ in range(chance.randrange(4))]
    keys = ["role", "content", "type", "text", "name", "x", "gen_length", "steps", "remasking"]
    return {chance.choice(keys): any_value(chance, depth + 1) for _ in range(chance.randrange(4))}


def any_body(chance: random.Random) -> bytes:
    """A request that is meant well, with something wrong in it."""
    body: dict[str, Any] = {"prompt": PROMPT, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8}
    del body[chance.choice(["prompt", "messages"])]
    own = ["steps", "gen_length", "remasking", "seed", "cache", "eos_id", "suppress_tokens", "attention_bias"]
    for _ in range(chance.randint(1, 3)):
        key = chance.choice([*body, "stop", "n", "seed", "temperature", "stream", "stream_options", *["dlm"] * 3])
        body[key] = {chance.choice(own): any_value(chance)} if key == "dlm" else any_value(chance)
    content = json.dumps(body).encode("utf-8", "surrogatepass")
    if chance.random() < 0.2:
        place = chance.randrange(len(content))
        content = content[:place] + bytes(chance.randrange(256) for _ in range(3)) + content[place:]
    return content[: chance.randrange(len(content))] if chance.random() < 0.1 else content


def test_nonsense_is_refused_and_stalls_nothing(server: Server, pytestconfig: pytest.Config) -> None:
    chance = random.Random(0)
    statuses = []
    number = MALFORMED_IN_FULL if pytestconfig.option.full else MALFORMED
    for _ in range(number):
        path = chance.choice(["/v1/completions", "/v1/chat/completions", "/v1/infill", "/v1/trace"])
        body = any_body(chance)
        started = time.monotonic()
        answer = server.ask("POST", path, body)
        assert answer.status in (200, 400, 404, 413), (path, body, answer)
        assert time.monotonic() - started < 30, (path, body)
        if answer.status != 200:
            assert answer.json["error"]["message"], (path, body)
        statuses.append(answer.status)
    assert statuses.count(400) > number / 2
    assert server.ask("GET", "/health").status == 200
    assert server.metric("dlm_rows_live") == server.metric("dlm_rows_waiting") == 0


@pytest.mark.parametrize(
    "sent", [b"", b"GET\r\n\r\n", b"\x16\x03\x01", b"POST /v1/completions HTTP/1.1\r\nContent-Length: 9\r\n"]
)
def test_what_is_no_request_does_not_stop_others(server: Server, sent: bytes) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(sent)
        assert server.ask("GET", "/health").status == 200


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_is_dropped(server: Server, stream: bool) -> None:
    cancelled = server.metric("dlm_cancelled_total")
    with server.open(json.dumps({**LONG, "stream": stream}).encode()):
        wait_until(lambda: server.metric("dlm_rows_live") == 1)
    wait_until(lambda: server.metric("dlm_rows_live") == 0)
    assert server.metric("dlm_cancelled_total") == cancelled + 1


@pytest.fixture(scope="module")
def narrow(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that asks for a key, has a seed, and room for one text, one that waits, and two seconds."""
    settings = tmp_path_factory.mktemp("narrow") / "sampling.yaml"
    settings.write_text("seed: 7\n")
    options = ("--max-rows", "1", "--max-waiting", "1", "--timeout", "2", "--max-length", "255")
    with serving(folder, *options, "--config", str(settings), DLM_API_KEY="s3cret") as started:
        yield started


KEY = {"Authorization": "Bearer s3cret"}


def test_nobody_may_ask_without_the_key(narrow: Server) -> None:
    for headers in ({}, {"Authorization": "Bearer s3cre"}, {"Authorization": "Basic \u00fc"}):
        for method, path in (("GET", "/v1/models"), ("POST", "/v1/completions"), ("GET", "/metrics")):
            answer = narrow.ask(method, path, None, **headers)
            assert answer.status == 401
            assert answer.json["error"]["code"] == "invalid_api_key"
    assert narrow.ask("GET", "/health").status == 200
    assert narrow.ask("GET", "/v1/models", None, **KEY).status == 200


def test_a_seed_in_the_settings_of_the_server_holds_for_requests_that_name_none(narrow: Server) -> None:
    for said, seed in (({}, 7), ({"seed": 3}, 3)):
        answer = narrow.post("/v1/completions", {"prompt": PROMPT, "max_tokens": 8, **said}, **KEY)
        assert answer.json["dlm"]["seed"] == seed


def test_a_full_queue_and_a_long_text_say_so(narrow: Server) -> None:
    answers = []

    def ask() -> None:
        answers.append(narrow.post("/v1/completions", SLOW, **KEY))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    by_status = {answer.status: answer for answer in answers}
    assert 503 in by_status
    assert int(by_status[503].headers["retry-after"]) > 0
    assert by_status[503].json["error"]["type"] == "overloaded_error"
    answer = narrow.post("/v1/completions", {"prompt": PROMPT, "max_tokens": 8, "n": 2}, **KEY)
    assert answer.status == 400
    answer = narrow.post("/v1/completions", {"prompt": PROMPT, "max_tokens": 245}, **KEY)
    assert "limit of 255" in answer.json["error"]["message"]


def test_a_crowd_gets_what_each_would_get_alone(server: Server, folder: Path, pytestconfig: pytest.Config) -> None:
    session = Session.open(str(folder), settings_of({}), dtype="float64")
    expected = {
        (text, seed): written(session, text, gen_length=24, seed=seed, temperature=seed / 4)
        for text in (PROMPT, "a", "the other one, 2 of them")
        for seed in range(3)
    }
    process = psutil.Process(server.process.pid)
    server.post("/v1/completions", {"prompt": PROMPT, "max_tokens": 24, "n": 16})
    before = process.memory_info().rss
    end = time.monotonic() + (CROWD_SECONDS_IN_FULL if pytestconfig.option.full else CROWD_SECONDS)
    wrong: list[Any] = []
    numbers = {200: 0, 503: 0, 0: 0}

    def visit(number: int) -> None:
        chance = random.Random(number)
        while time.monotonic() < end:
            text, seed = chance.choice(list(expected))
            body = {"prompt": text, "max_tokens": 24, "seed": seed, "temperature": seed / 4}
            if chance.random() < 0.3:
                leave(server, body)
                numbers[0] += 1
                continue
            answer = server.post("/v1/completions", body)
            numbers[answer.status] += 1
            if answer.status == 503:
                time.sleep(0.2)
            elif answer.json["choices"][0]["text"] != expected[text, seed]:
                wrong.append((body, answer))

    threads = [threading.Thread(target=visit, args=(number,)) for number in range(CROWD)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, wrong[0]
    assert numbers[200] > 8
    assert numbers[0]
    wait_until(lambda: server.metric("dlm_rows_live") == server.metric("dlm_rows_waiting") == 0)
    assert process.memory_info().rss - before < 100 << 20


def leave(server: Server, body: dict[str, Any]) -> None:
    """Ask for a stream, and go away soon."""
    with server.open(json.dumps({**body, "stream": True}).encode()):
        time.sleep(random.random() * 0.2)


def test_it_ends_after_the_running_requests_and_can_be_killed_and_started_again(folder: Path) -> None:
    with serving(folder, "--grace", "60") as first:
        answers = []
        asking = threading.Thread(target=lambda: answers.append(first.post("/v1/completions", LONG)))
        asking.start()
        wait_until(lambda: first.metric("dlm_rows_live") == 1)
        first.process.send_signal(signal.SIGTERM)
        asking.join()
        assert first.process.wait(timeout=60) == 0
        assert answers[0].status == 200
        port = first.url.rpartition(":")[2]
    with serving(folder, "--port", port) as second:
        taken = CliRunner().invoke(cli, ["serve", str(folder), "--port", port])
        assert "in use" in str(taken.exception)
        second.process.kill()
        second.process.wait(timeout=60)
    with serving(folder, "--port", port, "--grace", "0", "--host", "0.0.0.0", "--no-auth") as third:
        assert third.url == f"http://0.0.0.0:{port}"
        cut_off: dict[bool, Any] = {}
        visits = [threading.Thread(target=lambda: cut_off.update({False: third.post("/v1/completions", SLOW)}))]
        streamed = {**SLOW, "stream": True}
        visits.append(threading.Thread(target=lambda: cut_off.update({True: third.post("/v1/completions", streamed)})))
        for visit in visits:
            visit.start()
        wait_until(lambda: third.metric("dlm_rows_live") == 2)
        third.process.send_signal(signal.SIGINT)
        assert third.process.wait(timeout=60) == 0
        for visit in visits:
            visit.join()
        assert cut_off[False].status == 503
        assert "the server is ending" in cut_off[False].json["error"]["message"]
        assert "the server is ending" in cut_off[True].text.split("data: ")[-1]
        assert third.process.stderr is not None
        assert not third.process.stderr.read()


def test_others_are_let_in_only_with_a_key_or_when_it_is_said(folder: Path) -> None:
    refused = CliRunner().invoke(cli, ["serve", str(folder), "--host", "0.0.0.0"])
    assert refused.exit_code == 2
    assert "--api-key KEY, or --no-auth" in refused.output
