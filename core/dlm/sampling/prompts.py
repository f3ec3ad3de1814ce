"""Texts to token ids, and prompt files."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlm.errors import UserInputError

_MASKS = re.compile(r"<\|mask(?::(?P<count>\d+))?\|>")


def prompt_ids(tokenizer: Any, text: str, mask_id: int) -> list[int]:
    """The ids of a prompt that is to be continued.

    Raises:
        UserInputError: the prompt holds the mask token.
    """
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    if mask_id in ids or _MASKS.search(text):
        raise UserInputError(f"prompt {shortened(text)!r} holds the mask token; gaps are filled in with --infill")
    return ids


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
        ids += tokenizer(text[end : gap.start()], add_special_tokens=False)["input_ids"]
        ids += [mask_id] * count
        end = gap.end()
    ids += tokenizer(text[end:], add_special_tokens=False)["input_ids"]
    if mask_id not in ids:
        raise UserInputError(f"infill {shortened(text)!r} has no gap; write <|mask|>, or <|mask:3|> for three tokens")
    return ids


def read_prompts(path: str | Path) -> list[str]:
    """The prompts of a file: one a line, or, in a ``.jsonl`` file, the texts under ``prompt``.

    Raises:
        UserInputError: no such file, not UTF-8, no prompt in it, or a line that is not as it should be.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
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
