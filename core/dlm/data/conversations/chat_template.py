"""Rendering with the chat template of the tokenizer.

Templates rarely mark where an answer starts, and a rendered text does not tell a special token of the template from the
same characters typed by a user. So the template is rendered twice: once with a stand-in for each text, which shows the
template's own pieces, and once with the texts, which must lie between exactly these pieces.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import attrs
from transformers import PreTrainedTokenizerBase

from dlm.data.conversations.rendering import Rendered, encode_text
from dlm.data.conversations.turns import BadRowError, Conversation
from dlm.data.tokenization import eos_id_of
from dlm.errors import DataError

_ROLES = {"human": "user", "gpt": "assistant"}
_STAND_IN = "\ue000{}\ue001"  # private-use characters: no template contains them
_TRIMMINGS: tuple[Callable[[str], str], ...] = (str, str.strip, lambda text: text.lstrip("\n"), str.rstrip, str.lstrip)
"""What templates do to a text."""


@attrs.frozen
class _Pieces:
    """The template's own text before, between and behind n texts: n + 1 pieces."""

    pieces: tuple[str, ...]
    texts: tuple[str, ...]
    """As the template leaves them (often stripped)."""


@attrs.frozen
class ChatTemplateRendering:
    """Spans are found by rendering prefixes: the prompt of an answer is what the template makes of the turns before.

    Thinking is switched off where the template knows the switch (Qwen3), in training and in sampling.
    """

    tokenizer: PreTrainedTokenizerBase
    _pieces_by_roles: dict[tuple[tuple[str, ...], bool], tuple[str, ...]] = attrs.field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        if not self.tokenizer.chat_template:
            raise DataError(
                "dataset.chat_template: the tokenizer has no chat template; set it to false, or give the tokenizer one"
            )

    def answer(self, conversation: Conversation, index: int) -> Rendered:
        """As :meth:`~dlm.data.conversations.rendering.Rendering.answer`."""
        messages = _messages(attrs.evolve(conversation, turns=conversation.turns[: index + 1]))
        whole = self._render(messages, generation_prompt=False)
        *history, opening = self._own_pieces(messages[:-1], generation_prompt=True)
        *before, found_opening, closing = whole.pieces
        if history != before or not found_opening.startswith(opening):
            raise DataError(
                "the chat template renders a prompt differently once its answer follows, so a model trained with it "
                "would not see what it samples from; use dataset.chat_template: false"
            )
        return Rendered(
            prompt=self._ids((*history, opening), whole.texts[:-1]),
            answer=[
                *self._own_ids(found_opening.removeprefix(opening)),
                *encode_text(whole.texts[-1], self.tokenizer),
            ],
            end=self._end(closing),
        )

    def prompt(self, conversation: Conversation) -> list[int]:
        """As :meth:`~dlm.data.conversations.rendering.Rendering.prompt`."""
        rendered = self._render(_messages(conversation), generation_prompt=True)
        return self._ids(rendered.pieces, rendered.texts)

    def _end(self, closing: str) -> list[int]:
        """What closes an answer, up to the end-of-text token, which is added if the template has another one."""
        eos, ids = eos_id_of(self.tokenizer), self._own_ids(closing)
        if eos in ids:
            return ids[: ids.index(eos) + 1]
        return [*self._own_ids(closing.rstrip()), eos]

    def _ids(self, pieces: Sequence[str], texts: Sequence[str]) -> list[int]:
        ids: list[int] = []
        for piece, text in itertools.zip_longest(pieces, texts, fillvalue=""):
            ids += self._own_ids(piece)
            ids += encode_text(text, self.tokenizer) if text else []
        return ids

    def _own_ids(self, piece: str) -> list[int]:
        """Ids of the template's own text, whose special tokens are meant."""
        return list(self.tokenizer(piece, add_special_tokens=False)["input_ids"]) if piece else []

    def _render(self, messages: Sequence[dict[str, str]], *, generation_prompt: bool) -> _Pieces:
        pieces = self._own_pieces(messages, generation_prompt)
        rest = self._apply(messages, generation_prompt)
        texts = []
        rest = _behind(rest, pieces[0])
        for message, piece in zip(messages, pieces[1:], strict=True):
            trimmed = (trim(message["content"]) for trim in _TRIMMINGS)
            text = next((text for text in trimmed if rest.startswith(text + piece)), None)
            if text is None:
                raise BadRowError(f"the chat template rewrites the text of a {message['role']} turn")
            texts.append(text)
            rest = _behind(rest, text + piece)
        if rest:
            raise BadRowError("the chat template depends on the texts of this conversation")
        return _Pieces(pieces, tuple(texts))

    def _own_pieces(self, messages: Sequence[dict[str, str]], generation_prompt: bool) -> tuple[str, ...]:
        roles = tuple(message["role"] for message in messages)
        if (roles, generation_prompt) not in self._pieces_by_roles:
            stand_ins = [_STAND_IN.format(number) for number in range(len(messages))]
            replaced = [{"role": role, "content": text} for role, text in zip(roles, stand_ins, strict=True)]
            rest, pieces = self._apply(replaced, generation_prompt), []
            for stand_in in stand_ins:
                piece, found, rest = rest.partition(stand_in)
                if not found:
                    raise BadRowError("the chat template leaves out a turn")
                pieces.append(piece)
            self._pieces_by_roles[roles, generation_prompt] = (*pieces, rest)
        return self._pieces_by_roles[roles, generation_prompt]

    def _apply(self, messages: Sequence[dict[str, str]], generation_prompt: bool) -> str:
        from jinja2 import TemplateError

        options: dict[str, Any] = {"add_generation_prompt": generation_prompt, "enable_thinking": False}
        try:
            return str(self.tokenizer.apply_chat_template(list(messages), tokenize=False, **options))
        except TemplateError as error:
            raise BadRowError(f"the chat template refuses this conversation: {error}") from error


def _messages(conversation: Conversation) -> list[dict[str, str]]:
    system = [] if conversation.system is None else [{"role": "system", "content": conversation.system}]
    return [*system, *({"role": _ROLES[turn.role], "content": turn.text} for turn in conversation.turns)]


def _behind(text: str, start: str) -> str:
    if not text.startswith(start):
        raise BadRowError("the chat template depends on the texts of this conversation")
    return text[len(start) :]
