"""Rendering with the chat template of the tokenizer: what is prompt, what is answer, and where reasoning stands."""

import itertools
import json
import re
from collections.abc import Sequence

import attrs
from transformers import PreTrainedTokenizerBase

from dlm.data.conversations.clock import TemplateClock
from dlm.data.conversations.reasoning import BEGINNING, CLOSE, ENDING, OPEN
from dlm.data.conversations.rendering import Rendered, encode_text, own_ids
from dlm.data.conversations.template_pieces import ChatTemplate, Message, Request
from dlm.data.conversations.turns import BadRowError, Conversation
from dlm.data.tokenization import eos_id_of
from dlm.errors import DataError

_DIFFERS = (
    "the chat template renders a prompt differently once its answer follows, so a model trained with it would not see "
    "what it samples from; use dataset.chat_template: false"
)
_EMPTY_THOUGHT = re.compile(rf"\s*({OPEN})?\s*{CLOSE}\s*")
_ROLES = {"human": "user", "gpt": "assistant", "tool": "tool"}


@attrs.frozen
class ChatTemplateRendering:
    """The prompt of an answer is what the template makes of the turns before; what follows in the whole is the answer.

    An answer with reasoning is trained with thinking switched on, one without with thinking switched off, where the
    template knows the switch (Qwen3). Reasoning is trained even where the template would drop it; in earlier turns it
    stands as far as the template shows it.
    """

    tokenizer: PreTrainedTokenizerBase
    thinks: bool = False
    """Whether a sampler asks for reasoning."""
    clock: TemplateClock = attrs.field(factory=TemplateClock)
    _template: ChatTemplate = attrs.field(init=False)
    _special_names: tuple[str, ...] = attrs.field(init=False)

    @_template.default
    def _make_template(self) -> ChatTemplate:
        if not self.tokenizer.chat_template:
            raise DataError(
                "dataset.chat_template: the tokenizer has no chat template; set it to false, or give the tokenizer one"
            )
        return ChatTemplate(self.tokenizer, self.clock)

    @_special_names.default
    def _find_special_names(self) -> tuple[str, ...]:
        added = self.tokenizer.added_tokens_decoder.values()
        return (*self.tokenizer.all_special_tokens, *(token.content for token in added if token.special))

    def answer(self, conversation: Conversation, index: int) -> Rendered:
        """As :meth:`~dlm.data.conversations.rendering.Rendering.answer`."""
        messages = self._messages(conversation, index + 1)
        answer, thinks = messages[-1], bool(messages[-1].reasoning)
        asked = self._template.layout(_request(conversation, messages[:-1], asks=True, thinks=thinks))
        whole = self._template.render(_request(conversation, messages, asks=False, thinks=thinks))
        left_out = ""
        if len(whole.layout.slots) < len(asked.slots) + len(answer.slots):
            left_out = answer.reasoning
            messages[-1] = attrs.evolve(answer, reasoning="")
            whole = self._template.render(_request(conversation, messages, asks=False, thinks=thinks))
        num_history = len(asked.slots)
        *history, opening = asked.pieces
        if (tuple(history), asked.slots) != (whole.layout.pieces[:num_history], whole.layout.slots[:num_history]):
            raise DataError(_DIFFERS)
        pieces, texts = whole.layout.pieces[num_history:], whole.texts[num_history:]
        first = _behind_opening(opening, pieces[0], has_reasoning=bool(left_out))
        *between, closing = (first, *pieces[1:])
        return Rendered(
            prompt=self._ids(asked.pieces, whole.texts[:num_history]),
            answer=[*self._reasoning(left_out, opening), *self._ids(between, texts)],
            end=self._end(closing),
            has_reasoning=thinks,
        )

    def prompt(self, conversation: Conversation) -> list[int]:
        """As :meth:`~dlm.data.conversations.rendering.Rendering.prompt`."""
        messages = self._messages(conversation, len(conversation.turns))
        rendered = self._template.render(_request(conversation, messages, asks=True, thinks=self.thinks))
        return self._ids(rendered.layout.pieces, rendered.texts)

    def ignored(self, conversation: Conversation) -> tuple[str, ...]:
        """As :meth:`~dlm.data.conversations.rendering.Rendering.ignored`."""
        if not conversation.tools:
            return ()
        messages = self._messages(conversation, len(conversation.turns))
        request = _request(conversation, messages, asks=False, thinks=False)
        shows = self._template.layout(request) != self._template.layout(attrs.evolve(request, tools=()))
        return () if shows else ("tools",)

    def _messages(self, conversation: Conversation, num_turns: int) -> list[Message]:
        system = [] if conversation.system is None else [Message("system", "the system turn", conversation.system)]
        turns = conversation.turns[:num_turns]
        self._check_names("tools", conversation.tools)
        for index, turn in enumerate(turns):
            self._check_names(turn.called(index), turn.fields)
        return [
            *system,
            *(
                Message(
                    _ROLES[turn.role],
                    f"{turn.called(index)} ({turn.role})",
                    turn.text,
                    turn.reasoning or "",
                    turn.fields,
                )
                for index, turn in enumerate(turns)
            ),
        ]

    def _check_names(self, what: str, value: object) -> None:
        """Refuse names of special tokens in tools and calls: templates write these as part of their own text."""
        if not value:
            return
        written = json.dumps(value, ensure_ascii=False)
        name = next((name for name in self._special_names if name in written), None)
        if name is not None:
            raise BadRowError(f"{what}: a tool or its call holds {name}, which is a special token")

    def _reasoning(self, reasoning: str, opening: str) -> list[int]:
        """Reasoning as it is written for a template that drops it."""
        if not reasoning:
            return []
        beginning = "" if _has_begun(opening) else BEGINNING
        return self._ids((beginning, ENDING), (reasoning,))

    def _end(self, closing: str) -> list[int]:
        """What closes an answer, up to the end-of-text token, which is added if the template has another one."""
        eos, ids = eos_id_of(self.tokenizer), own_ids(closing, self.tokenizer)
        if eos in ids:
            return ids[: ids.index(eos) + 1]
        return [*own_ids(closing.rstrip(), self.tokenizer), eos]

    def _ids(self, pieces: Sequence[str], texts: Sequence[str]) -> list[int]:
        ids: list[int] = []
        for piece, text in itertools.zip_longest(pieces, texts, fillvalue=""):
            ids += own_ids(piece, self.tokenizer)
            ids += encode_text(text, self.tokenizer) if text else []
        return ids


def _request(conversation: Conversation, messages: Sequence[Message], *, asks: bool, thinks: bool) -> Request:
    return Request(messages=tuple(messages), tools=conversation.tools, asks=asks, thinks=thinks)


def _has_begun(opening: str) -> bool:
    """Whether the template begins the reasoning itself, at the end of the prompt."""
    return opening.rstrip().endswith(OPEN)


def _behind_opening(opening: str, found: str, *, has_reasoning: bool) -> str:
    """What the template writes between the prompt and the answer's text.

    Args:
        opening: the end of the prompt.
        found: the same place when the answer follows.
        has_reasoning: whether reasoning is put in between, so that a thought without content has no place.

    Raises:
        DataError: the prompt is another once its answer follows.
    """
    if found.startswith(opening):
        rest = found.removeprefix(opening)
        return _EMPTY_THOUGHT.sub("", rest, count=1) if has_reasoning else rest
    if opening.startswith(found) and _has_begun(opening) and opening.removeprefix(found).strip() == OPEN:
        return "" if has_reasoning else ENDING
    raise DataError(_DIFFERS)
