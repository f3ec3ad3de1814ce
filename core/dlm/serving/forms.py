"""Answers in OpenAI's form: completions and chat completions, whole or as chunks of a stream."""

import time
from collections.abc import Sequence
from typing import Any, Protocol
from uuid import uuid4

import attrs

from dlm.serving.row_text import RowText


class Form(Protocol):
    """How an answer is written down."""

    def whole(self, rows: Sequence[RowText], usage: dict[str, int]) -> dict[str, Any]:
        """The answer to a request that does not stream."""
        ...

    def first_chunks(self, num_rows: int) -> list[dict[str, Any]]:
        """What a stream begins with."""
        ...

    def chunk(self, index: int, piece: str, row: RowText) -> dict[str, Any]:
        """The next piece of a row."""
        ...

    def last_chunk(self, usage: dict[str, int]) -> dict[str, Any]:
        """What counts the tokens of a stream."""
        ...


def usage_of(num_prompt: int, rows: Sequence[RowText]) -> dict[str, int]:
    """Tokens of prompts and texts."""
    num_written = sum(row.num_tokens for row in rows)
    return {"prompt_tokens": num_prompt, "completion_tokens": num_written, "total_tokens": num_prompt + num_written}


@attrs.define(kw_only=True)
class _Common:
    model: str
    seed: int
    _created: int = attrs.field(factory=lambda: int(time.time()), init=False)
    _id: str = attrs.field(factory=lambda: uuid4().hex, init=False)

    def _object(self, prefix: str, kind: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        shared = {"id": f"{prefix}-{self._id}", "object": kind, "created": self._created, "model": self.model}
        # The seed that makes the answer come again.
        return {**shared, "choices": choices, **more, "dlm": {"seed": self.seed}}


class CompletionForm(_Common):
    """``text_completion``: of ``/v1/completions`` and ``/v1/infill``."""

    def whole(self, rows: Sequence[RowText], usage: dict[str, int]) -> dict[str, Any]:
        """See :class:`Form`."""
        return self._object(
            "cmpl", "text_completion", [_choice(index, row, row.text) for index, row in enumerate(rows)], usage=usage
        )

    def first_chunks(self, num_rows: int) -> list[dict[str, Any]]:
        """See :class:`Form`."""
        return []

    def chunk(self, index: int, piece: str, row: RowText) -> dict[str, Any]:
        """See :class:`Form`."""
        return self._object("cmpl", "text_completion", [_choice(index, row, piece)])

    def last_chunk(self, usage: dict[str, int]) -> dict[str, Any]:
        """See :class:`Form`."""
        return self._object("cmpl", "text_completion", [], usage=usage)


class ChatForm(_Common):
    """``chat.completion``."""

    def whole(self, rows: Sequence[RowText], usage: dict[str, int]) -> dict[str, Any]:
        """See :class:`Form`."""
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": row.text, "refusal": None},
                "logprobs": None,
                "finish_reason": row.reason,
            }
            for index, row in enumerate(rows)
        ]
        return self._object("chatcmpl", "chat.completion", choices, usage=usage)

    def first_chunks(self, num_rows: int) -> list[dict[str, Any]]:
        """See :class:`Form`."""
        return [self._chunk(index, {"role": "assistant", "content": ""}, None) for index in range(num_rows)]

    def chunk(self, index: int, piece: str, row: RowText) -> dict[str, Any]:
        """See :class:`Form`."""
        return self._chunk(index, {"content": piece} if piece else {}, row.reason)

    def last_chunk(self, usage: dict[str, int]) -> dict[str, Any]:
        """See :class:`Form`."""
        return self._object("chatcmpl", "chat.completion.chunk", [], usage=usage)

    def _chunk(self, index: int, delta: dict[str, Any], reason: str | None) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
        return self._object("chatcmpl", "chat.completion.chunk", [choice])


def _choice(index: int, row: RowText, text: str) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": row.reason}
