"""Serving over HTTP: the socket, signals (SIGTERM ends after the running requests), and the line that says where."""

import asyncio
import socket
import sys

import uvicorn

from dlm.errors import UserInputError
from dlm.serving.app import Service
from dlm.serving.engine import Engine

_SECONDS_TO_END = 5
"""For requests whose texts have ended, to send what is left."""
_SECONDS_BETWEEN_LOOKS = 0.05


class _Server(uvicorn.Server):
    """Ends at the first signal when the running requests have ended.

    When the grace is over, or at the second signal, those that still run are told so; the third does not wait at all.
    """

    def __init__(self, config: uvicorn.Config, announcement: str, engine: Engine, grace: int) -> None:
        super().__init__(config)
        self._announcement = announcement
        self._engine = engine
        self._grace = grace
        self._hurries = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # Not before: until now a signal would have ended the process in its usual way.
        print(self._announcement, file=sys.stderr, flush=True)

    def handle_exit(self, sig: int, frame: object) -> None:
        # uvicorn would raise the signal again at the end, as if something had gone wrong.
        self.force_exit = self._hurries
        self._hurries = self.should_exit
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        ending = asyncio.create_task(self._end_texts())
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()

    async def _end_texts(self) -> None:
        """Stop the engine when nobody waits any longer: uvicorn would break requests off without an answer."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._grace
        while not self._hurries and loop.time() < deadline:
            await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)
        await asyncio.to_thread(self._engine.stop)


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        UserInputError: the address is in use, or is not this machine's.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address, family=family, backlog=1024)
    except OSError as error:
        # What Python adds to the system's words says the address once more.
        reason = (error.strerror or str(error)).partition(" (while")[0]
        raise UserInputError(
            f"cannot listen at {host}, port {port}: {reason}; choose with --host and --port"
        ) from error


def serve(service: Service, listener: socket.socket, *, grace: int) -> None:
    """Answer requests until a signal comes.

    Args:
        service: answers.
        listener: where requests arrive.
        grace: seconds that running requests get to end.
    """
    config = uvicorn.Config(
        service.app(),
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=grace + _SECONDS_TO_END,
    )
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    announcement = f"serving {service.name} at http://{shown}:{port} (Ctrl-C ends)"
    _Server(config, announcement, service.engine, grace).run(sockets=[listener])
