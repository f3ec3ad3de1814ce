"""Errors as OpenAI's clients read them: a status, and an object with message, type, param and code."""

from typing import Any

import attrs
from starlette.responses import JSONResponse

_TYPES = {401: "authentication_error", 404: "not_found_error", 408: "timeout_error", 503: "overloaded_error"}
_RETRY_AFTER_SECONDS = 2


@attrs.frozen(kw_only=True, eq=False)
class ApiError(Exception):
    """A request that gets no answer; the message says what is wrong and what to do."""

    status: int
    message: str
    param: str | None = None
    """Key of the body that is wrong."""
    code: str | None = None

    def __str__(self) -> str:
        return self.message

    @property
    def body(self) -> dict[str, Any]:
        """The object that clients read."""
        # A message may repeat half a character that a client sent, which no answer can hold.
        message = self.message.encode("utf-8", "backslashreplace").decode()
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The whole answer; one to a busy server's client says when to come back."""
        headers = {"Retry-After": str(_RETRY_AFTER_SECONDS)} if self.status == 503 else {}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body, self.status, headers)


def refused(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A request that is wrong by itself."""
    return ApiError(status=400, message=message, param=param, code=code)
