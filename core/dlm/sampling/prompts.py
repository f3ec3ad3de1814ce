"""Texts to token ids, and prompt files."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dlm.data.conversations.chat_template import ChatTemplateRendering
from dlm.data.conversations.rendering import PlainRendering, Rendering, encode_text
from dlm.data.conversations.turns import Conversation, Turn
from dlm.errors import ModelError, UserInputError
from dlm.user_paths import user_path

_RENDERINGS: Mapping[str, Callable[[Any], Rendering]] = {
    "plain": PlainRendering,
    "chat_template": ChatTemplateRendering,
}
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
    return _RENDERINGS[name](tokenizer)


def prompt_ids(tokenizer: Any, text: str, rendering: Rendering | None) -> list[int]:
    """The ids of a prompt that is to be continued, or, with a rendering, answered.

    Names of special tokens in it are text, as they were in training.

    Raises:
        UserInputError: the prompt holds the mask token.
    """
    check_no_mask(tokenizer, text)
    if rendering is None:
        return encode_text(text, tokenizer)
    return rendering.prompt(Conversation(turns=(Turn("human", text),)))


def check_no_mask(tokenizer: Any, text: str) -> None:
    """Refuse a text with the mask token in it.

    Raises:
        UserInputError: there is one.
    """
    if _MASKS.search(text) or (tokenizer.mask_token is not None and tokenizer.mask_token in text):
        raise UserInputError(f"prompt {shortened(text)!r} holds the mask token; gaps are filled in with --infill")


def infill_ids(tokenizer: Any, text: str, mask_id: int) -> list[int]:
    """The ids of a text with gaps: ``<|mask|>`` is one mask, ``<|mask:3|>`` three.

    Raises:
        UserInputError: no gap, or one of length 0.
    """
    ids: list[int] = []
    end = 0
    for gap in _MASKS.finditer(text):
        count = int(gap["count"] or 1)
        if count == 0:
            raise UserInputError(f"{gap[0]} in {shortened(text)!r}: a gap has at least one mask")
        ids += encode_text(text[end : gap.start()], tokenizer)
        ids += [mask_id] * count
        end = gap.end()
    ids += encode_text(text[end:], tokenizer)
    if mask_id not in ids:
        raise UserInputError(f"infill {shortened(text)!r} has no gap; write <|mask|>, or <|mask:3|> for three tokens")
    return ids


def read_prompts(path: str | Path) -> list[str]:
    """The prompts of a file: one a line, or, in a ``.jsonl`` file, the texts under ``prompt``.

    Raises:
        UserInputError: no such file, not UTF-8, no prompt in it, or a line that is not as it should be.
    """
    try:
        lines = user_path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserInputError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not numbered:
        raise UserInputError(f"{path}: no prompt in it; write one a line")
    if Path(path).suffix != ".jsonl":
        return [line for _, line in numbered]
    return [_prompt_of(path, number, line) for number, line in numbered]


def _prompt_of(path: str | Path, number: int, line: str) -> str:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserInputError(f"{path}:{number}: not JSON: {error.msg}") from error
    prompt = value.get("prompt") if isinstance(value, dict) else value
    if not isinstance(prompt, str):
        raise UserInputError(f'{path}:{number}: expected {{"prompt": "..."}}')
    return prompt


def shortened(text: str, length: int = 40) -> str:
    """The beginning of a text, for messages."""
    return text if len(text) <= length else text[: length - 3] + "..."


def longest(rows: Sequence[Sequence[int]]) -> int:
    """Length of the longest row, 0 without rows."""
    return max(map(len, rows), default=0)
