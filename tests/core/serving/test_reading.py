"""While the prompt of one request is read (tokenized), which may take seconds, the others are answered."""

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from dlm.sampling.arguments import settings_of
from dlm.sampling.session import Session
from dlm.serving.app import Service
from dlm.serving.engine import Engine
from dlm.serving.limits import Limits

SECONDS = 60


async def status_of(app: Any, method: str, path: str, body: Any = None) -> int:
    """What the application answers."""
    parts = [{"type": "http.request", "body": json.dumps(body).encode()}]
    sent: list[Any] = []

    async def receive() -> Any:
        if parts:
            return parts.pop()
        return await asyncio.Event().wait()  # the client stays

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json")]
    await app({"type": "http", "method": method, "path": path, "headers": headers, "query_string": b""}, receive, send)
    return int(sent[0]["status"])


def test_others_are_answered_while_a_prompt_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dlm.serving import requests

    begins, goes_on, read = threading.Event(), threading.Event(), requests.prompt_ids

    def slowly(*arguments: Any) -> Any:
        begins.set()
        assert goes_on.wait(SECONDS), "nobody else was answered"
        return read(*arguments)

    monkeypatch.setattr(requests, "prompt_ids", slowly)
    session = Session.open(str(folder), settings_of({"gen_length": 4}), device="cpu")
    engine = Engine(model=session.model, max_rows=1, max_waiting=4)
    limits = Limits(max_rows=1, max_waiting=4, max_length=None, max_body=1000, seconds=SECONDS)
    app = Service(session=session, engine=engine, limits=limits, name="tiny", api_key=None).app()

    async def ask() -> tuple[int, int]:
        async with app.router.lifespan_context(app):
            long = asyncio.create_task(status_of(app, "POST", "/v1/completions", {"prompt": "a long one"}))
            assert await asyncio.to_thread(begins.wait, SECONDS)
            other = await status_of(app, "GET", "/health")
            goes_on.set()
            return other, await long

    assert asyncio.run(ask()) == (200, 200)
