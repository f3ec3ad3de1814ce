"""The HTTP application: paths in OpenAI's form, who may call them (API key), limits, streams of server-sent events."""

import asyncio
import hmac
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import attrs
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from dlm.data.text_files import TextError, decode, parse_json
from dlm.errors import DlmError
from dlm.sampling.session import Session
from dlm.sampling.trace import Changes
from dlm.serving.api_errors import ApiError, refused
from dlm.serving.engine import Engine
from dlm.serving.forms import ChatForm, CompletionForm, Form, usage_of
from dlm.serving.limits import Limits
from dlm.serving.metrics import Metrics
from dlm.serving.page import page_for
from dlm.serving.requests import Body, ChatBody, CompletionBody, InfillBody, TraceBody, Wanted, wanted_of
from dlm.serving.row_text import RowText
from dlm.serving.writing import Writing, texts_of

Handler = Callable[[Request], Awaitable[Response]]

KINDS: dict[str, tuple[type[Body], type[CompletionForm | ChatForm]]] = {
    "/v1/completions": (CompletionBody, CompletionForm),
    "/v1/chat/completions": (ChatBody, ChatForm),
    "/v1/infill": (InfillBody, CompletionForm),
}
"""What writes texts: the keys of its body, and the form of its answer."""
_STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
_CLIENT_IS_GONE = 499


@attrs.define(kw_only=True, eq=False)
class Service:
    """What the paths answer with."""

    session: Session
    engine: Engine
    limits: Limits
    name: str
    """Of the model, for clients."""
    api_key: str | None
    """Without which nothing but ``/health`` answers; None: everybody may ask."""
    draws_seeds: bool = True
    """Whether a request that names no seed gets one of its own."""
    metrics: Metrics = attrs.field(init=False)
    _reader: ThreadPoolExecutor = attrs.field(factory=lambda: ThreadPoolExecutor(1, "reader"), init=False)
    """Where prompts are tokenized, one request's after the other: others are answered meanwhile."""
    _started: int = attrs.field(factory=lambda: int(time.time()), init=False)

    def __attrs_post_init__(self) -> None:
        self.metrics = Metrics(self.engine)

    def app(self) -> Starlette:
        """The application. Its start and end are the engine's."""

        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            self.engine.start()
            try:
                yield
            finally:
                await asyncio.to_thread(self.engine.stop)
                self._reader.shutdown(wait=False, cancel_futures=True)

        routes = [
            Route("/", self._counted(self._page, is_open=True)),
            Route("/health", self._counted(self._health, is_open=True)),
            Route("/metrics", self._counted(self._metrics)),
            Route("/v1/models", self._counted(self._models)),
            Route("/v1/models/{name:path}", self._counted(self._model)),
            Route("/v1/trace", self._counted(self._trace), methods=["POST"]),
            *(Route(path, self._counted(self._writer(path)), methods=["POST"]) for path in KINDS),
        ]
        handlers: Any = {HTTPException: _other_error, Exception: _bug}
        return Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)

    def _counted(self, handler: Handler, *, is_open: bool = False) -> Handler:
        """The handler for those who have the key; errors become answers, and all is counted."""

        async def handle(request: Request) -> Response:
            path: str = request.scope["route"].path
            try:
                if not is_open:
                    self._check_key(request)
                response = await handler(request)
            except ApiError as error:
                response = error.response()
            except DlmError as error:
                response = refused(str(error)).response()
            except ClientDisconnect:
                self.metrics.cancelled.inc()
                response = Response(status_code=_CLIENT_IS_GONE)
            self.metrics.requests.labels(path, response.status_code).inc()
            return response

        return handle

    def _check_key(self, request: Request) -> None:
        if self.api_key is None:
            return
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), self.api_key.encode()):
            raise ApiError(
                status=401, message="wrong or no API key: send Authorization: Bearer KEY", code="invalid_api_key"
            )

    async def _health(self, request: Request) -> Response:
        is_well = self.engine.is_running
        return JSONResponse({"status": "ok" if is_well else "the engine has ended"}, 200 if is_well else 503)

    async def _page(self, request: Request) -> Response:
        page = page_for(self.session, self.name, needs_key=self.api_key is not None)
        return HTMLResponse(page, headers={"X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer"})

    async def _metrics(self, request: Request) -> Response:
        return Response(self.metrics.page(), media_type="text/plain; version=0.0.4")

    async def _models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._description]})

    async def _model(self, request: Request) -> Response:
        self._check_model(request.path_params["name"])
        return JSONResponse(self._description)

    @property
    def _description(self) -> dict[str, Any]:
        return {"id": self.name, "object": "model", "created": self._started, "owned_by": "dlm"}

    def _check_model(self, name: str | None) -> None:
        if name not in (None, self.name):
            message = f"no model {name!r} here; this server has {self.name!r}"
            raise ApiError(status=404, message=message, param="model", code="model_not_found")

    def _writer(self, path: str) -> Handler:
        body_kind, form_kind = KINDS[path]

        async def write(request: Request) -> Response:
            wanted = await self._wanted(request, body_kind)
            form = form_kind(model=self.name, seed=wanted.seed)
            return await self._write(request, wanted, form)

        return write

    async def _wanted(self, request: Request, kind: type[Body]) -> Wanted:
        value = await self._json(request)
        read = partial(wanted_of, kind, value, self.session, self.limits, draws_seed=self.draws_seeds)
        wanted = await asyncio.get_running_loop().run_in_executor(self._reader, read)
        self._check_model(wanted.body.model)
        return wanted

    async def _trace(self, request: Request) -> Response:
        """The steps of one text as they come: what the page shows."""
        wanted = await self._wanted(request, TraceBody)
        if wanted.body.num_samples > 1 or wanted.body.stops:
            raise refused("a trace follows one text to its end: leave n and stop out")
        writing = Writing(self.engine, wanted, watches=True)
        steps = self._steps(writing, wanted.seed)
        try:
            first = await _unless_gone(request, anext(steps))
        except BaseException:
            writing.cancel()
            raise
        return StreamingResponse(_chained(first, steps), media_type="text/event-stream", headers=_STREAM_HEADERS)

    async def _steps(self, writing: Writing, seed: int) -> AsyncIterator[str]:
        changes = Changes(self.session.tokenizer)
        try:
            is_first = True
            async for event in writing.events(self.limits.seconds):
                step = {"step": event.state.step, **changes.step(event.state)}
                start = {"given": changes.given, "seed": seed} if is_first else {}
                # The last state is that of the last step, which may have been shown.
                if step["changes"] or not event.is_last:
                    yield _sse({**start, **step})
                is_first = False
            yield "data: [DONE]\n\n"
        except ApiError as error:
            if is_first:
                raise
            yield _sse(error.body)
        finally:
            writing.cancel()

    async def _json(self, request: Request) -> Any:
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise ApiError(status=415, message="send JSON, with the header Content-Type: application/json")
        content = bytearray()
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                async for part in request.stream():
                    content += part
                    if len(content) > self.limits.max_body:
                        raise ApiError(status=413, message=f"the body is longer than {self.limits.max_body} bytes")
        except TimeoutError:
            raise ApiError(status=408, message="the body did not arrive in time") from None
        try:
            return parse_json(decode(bytes(content)))
        except TextError as error:
            raise refused(f"the body is {error}") from None

    async def _write(self, request: Request, wanted: Wanted, form: Form) -> Response:
        started = time.perf_counter()
        streams = bool(wanted.body.stream)
        writing = Writing(self.engine, wanted, watches=streams or bool(wanted.body.stops))
        pieces = self._pieces(writing, wanted)
        is_streaming = False
        try:
            if streams:
                # What goes wrong before the first state is an answer with its own status.
                first = await _unless_gone(request, anext(pieces))
                is_streaming = True
                chunks = self._chunks(writing, wanted, form, pieces, first, started)
                return StreamingResponse(chunks, media_type="text/event-stream", headers=_STREAM_HEADERS)
            rows = await _unless_gone(request, _all_of(pieces))
            return JSONResponse(form.whole(rows, self._usage(wanted, rows, started)))
        finally:
            if not is_streaming:
                writing.cancel()

    async def _pieces(self, writing: Writing, wanted: Wanted) -> AsyncIterator[tuple[int, str, list[RowText]]]:
        """Pieces of texts as they settle, each with the number of its row, and all rows as they are by then."""
        rows = texts_of(writing, wanted, self.session)
        async for event in writing.events(self.limits.seconds):
            row = rows[event.index]
            piece = row.piece(event.state, is_last=event.is_last)
            writing.rows[event.index].is_cancelled = row.reason is not None
            yield event.index, piece, rows

    async def _chunks(
        self,
        writing: Writing,
        wanted: Wanted,
        form: Form,
        pieces: AsyncIterator[tuple[int, str, list[RowText]]],
        first: tuple[int, str, list[RowText]],
        started: float,
    ) -> AsyncIterator[str]:
        is_complete = False
        try:
            rows = first[2]
            for chunk in form.first_chunks(len(rows)):
                yield _sse(chunk)
            async for index, piece, rows in _chained(first, pieces):
                if piece or rows[index].reason is not None:
                    yield _sse(form.chunk(index, piece, rows[index]))
            is_complete = True
            usage = self._usage(wanted, rows, started)
            if wanted.body.wants_usage:
                yield _sse(form.last_chunk(usage))
            yield "data: [DONE]\n\n"
        except ApiError as error:
            is_complete = True
            yield _sse(error.body)
        finally:
            if not is_complete:
                self.metrics.cancelled.inc()
            writing.cancel()

    def _usage(self, wanted: Wanted, rows: list[RowText], started: float) -> dict[str, int]:
        # The masks of an infill are no tokens of the prompt: they are what is written.
        num_given = sum(each != self.session.mask_id for ids in wanted.prompts for each in ids)
        usage = usage_of(num_given, rows)
        self.metrics.prompt_tokens.inc(usage["prompt_tokens"])
        self.metrics.completion_tokens.inc(usage["completion_tokens"])
        self.metrics.seconds.observe(time.perf_counter() - started)
        return usage


async def _chained(first: Any, rest: AsyncIterator[Any]) -> AsyncIterator[Any]:
    yield first
    async for each in rest:
        yield each


async def _all_of(pieces: AsyncIterator[tuple[int, str, list[RowText]]]) -> list[RowText]:
    *_, (_, _, rows) = [each async for each in pieces]
    return rows


async def _unless_gone(request: Request, work: Awaitable[Any]) -> Any:
    """The result of some work, which is broken off when the client goes away.

    Raises:
        ClientDisconnect: it has gone.
    """

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = asyncio.ensure_future(work), asyncio.create_task(gone())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            raise ClientDisconnect
        return tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError, ApiError):
                await task


def _sse(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


async def _other_error(request: Request, error: HTTPException) -> Response:
    """Unknown paths and methods."""
    message = f"{request.method} {request.url.path}: {error.detail}"
    response = ApiError(status=error.status_code, message=message).response()
    response.headers.update(error.headers or {})
    return response


async def _bug(request: Request, error: Exception) -> Response:
    return ApiError(status=500, message="this is a bug in dlm or in a plugin; the server's log says more").response()
