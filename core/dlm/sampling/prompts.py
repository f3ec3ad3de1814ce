"""Prompts and infill texts (gaps ``<|mask:3|>``) to token ids, with or without chat template; prompt files."""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dlm.data.compression import opened
from dlm.data.conversations.chat_template import ChatTemplateRendering
from dlm.data.conversations.rendering import PlainRendering, Rendering, encode_text
from dlm.data.conversations.turns import Conversation, Turn
from dlm.data.readers import format_of
from dlm.data.text_files import TextError, check_unicode, numbered_lines, parse_json
from dlm.errors import ModelError, UserInputError
from dlm.user_paths import user_path

_RENDERINGS: Mapping[str, Callable[[Any, bool], Rendering]] = {
    "plain": lambda tokenizer, _: PlainRendering(tokenizer),
    "chat_template": lambda tokenizer, thinks: ChatTemplateRendering(tokenizer, thinks),
}
_MOST_TOKENS = 1 << 20
_MASKS = re.compile(r"<\|mask(?::(?P<count>\d+))?\|>")


def rendering_of(config: Any, tokenizer: Any) -> Rendering | None:
    """The way a model trained on conversations sees them; None for a model that continues plain text.

    Raises:
        DataError: the model was trained with a chat template, and the tokenizer has none.
        ModelError: a rendering that this version does not know.
    """
    name = getattr(config, "prompt_rendering", None)
    if name is None:
        return None
    if name not in _RENDERINGS:
        raise ModelError(f"the model's prompt_rendering is {name!r}; known are {', '.join(_RENDERINGS)}")
    return _RENDERINGS[name](tokenizer, bool(getattr(config, "prompt_thinking", False)))


def prompt_ids(tokenizer: Any, text: str, rendering: Rendering | None) -> list[int]:
    """The ids of a prompt that is to be continued, or, with a rendering, answered.

    Names of special tokens in it are text, as they were in training.

    Raises:
        UserInputError: the prompt holds the mask token, or half a character.
    """
    check_prompt(tokenizer, text)
    if rendering is None:
        return encode_text(text, tokenizer)
    return rendering.prompt(Conversation(turns=(Turn("human", text),)))


def check_prompt(tokenizer: Any, text: str) -> None:
    """Refuse what cannot be a prompt.

    Raises:
        UserInputError: the mask token is in it, or it is not valid Unicode.
    """
    _check_unicode(text, "prompt")
    if _MASKS.search(text) or (tokenizer.mask_token is not None and tokenizer.mask_token in text):
        raise UserInputError(f"prompt {shortened(text)!r} holds the mask token; gaps are filled in with --infill")


def has_gaps(text: str) -> bool:
    """Whether a text is one to be filled in."""
    return _MASKS.search(text) is not None


def infill_ids(tokenizer: Any, text: str, mask_id: int, longest: int = _MOST_TOKENS) -> list[int]:
    """The ids of a text with gaps: ``<|mask|>`` is one mask, ``<|mask:3|>`` three.

    Raises:
        UserInputError: no gap, one of length 0, a text that is not valid Unicode, or more tokens than ``longest``
            up to the last gap.
    """
    _check_unicode(text, "infill")
    ids: list[int] = []
    end = 0
    for gap in _MASKS.finditer(text):
        digits = (gap["count"] or "1").lstrip("0")
        if not digits:
            raise UserInputError(f"{gap[0]} in {shortened(text)!r}: a gap has at least one mask")
        # The text of a number may be too long to be read as one.
        if len(digits) > len(str(_MOST_TOKENS)) or len(ids) + int(digits) > longest:
            raise UserInputError(f"{shortened(gap[0])}: gaps and what is between them have at most {longest} tokens")
        count = int(digits)
        ids += encode_text(text[end : gap.start()], tokenizer)
        ids += [mask_id] * count
        end = gap.end()
    ids += encode_text(text[end:], tokenizer)
    if mask_id not in ids:
        raise UserInputError(f"infill {shortened(text)!r} has no gap; write <|mask|>, or <|mask:3|> for three tokens")
    return ids


STANDARD_INPUT = "-"
"""In place of a file of prompts."""


def read_prompts(path: str | Path) -> list[str]:
    """The prompts of a file: one a line, or, in a ``.jsonl`` file, the texts under ``prompt``.

    ``-`` is the standard input, which is taken for JSON lines if its first line is one.

    Raises:
        DataError: no such file, or not UTF-8, with the line.
        UserInputError: no prompt in it, or a line that is not as it should be.
    """
    if path == STANDARD_INPUT:
        name, prompts = "standard input", piped_prompts()
    else:
        name, file_path = str(path), user_path(path)
        with opened(file_path) as file:
            prompts = _prompts_of(name, list(numbered_lines(file, name)), format_of(file_path) == ".jsonl")
    if not prompts:
        raise UserInputError(f"{name}: no prompt in it; write one a line")
    return prompts


def piped_prompts() -> list[str]:
    """The prompts on the standard input; none where there is no such thing.

    Raises:
        DataError: not UTF-8, with the line.
        UserInputError: a line that is not as it should be.
    """
    if sys.stdin is None:
        return []
    try:
        # As bytes: the locale says nothing about the encoding of what is piped in.
        numbered = list(numbered_lines(sys.stdin.buffer, "standard input"))
    except OSError:
        return []  # a terminal that is gone, a stream that was closed
    return _prompts_of("standard input", numbered, bool(numbered) and _is_object(numbered[0][1]))


def _prompts_of(name: str, numbered: Sequence[tuple[int, str]], has_objects: bool) -> list[str]:
    return [_prompt_of(name, number, line) if has_objects else line for number, line in numbered]


def _is_object(line: str) -> bool:
    """Whether a line is a JSON object with a prompt."""
    try:
        value = parse_json(line)
    except TextError:
        return False
    return isinstance(value, dict) and "prompt" in value


def _prompt_of(path: str | Path, number: int, line: str) -> str:
    try:
        value = parse_json(line)
        prompt = value.get("prompt") if isinstance(value, dict) else value
        if not isinstance(prompt, str):
            raise TextError('expected {"prompt": "..."}')
        return check_unicode(prompt)
    except TextError as error:
        raise UserInputError(f"{path}:{number}: {error}") from error


def _check_unicode(text: str, what: str) -> None:
    try:
        check_unicode(text)
    except TextError as error:
        raise UserInputError(f"{what} {shortened(text)!r}: {error}") from error


def shortened(text: str, length: int = 40) -> str:
    """The beginning of a text, for messages."""
    return text if len(text) <= length else text[: length - 3] + "..."


def longest(rows: Sequence[Sequence[int]]) -> int:
    """Length of the longest row, 0 without rows."""
    return max(map(len, rows), default=0)
