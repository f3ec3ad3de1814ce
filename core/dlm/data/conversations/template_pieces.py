"""What a chat template makes of messages: its own pieces of text, and the texts of the messages between them.

Templates rarely mark where an answer starts, and a rendered text does not tell a special token of the template from the
same characters typed by a user. So the template is rendered twice: once with a stand-in for each text, which shows the
template's own pieces, and once with the texts, which must lie between exactly these pieces.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import attrs
from transformers import PreTrainedTokenizerBase

from dlm.data.conversations.clock import TemplateClock
from dlm.data.conversations.reasoning import BEGINNING, ENDING
from dlm.data.conversations.turns import BadRowError
from dlm.errors import DataError

_STAND_IN = "\ue000{}\ue001"  # private-use characters: no template contains them
_TRIMMINGS: tuple[Callable[[str], str], ...] = (str, str.strip, lambda text: text.lstrip("\n"), str.rstrip, str.lstrip)
"""What templates do to a text."""
_FAILURES = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What expressions of a template raise that meet a message they were not written for."""


@attrs.frozen
class Message:
    """One message for the template."""

    role: str
    name: str
    """How the user is told of it."""
    text: str
    reasoning: str = ""
    fields: Mapping[str, Any] = attrs.field(factory=dict)

    @property
    def slots(self) -> list[tuple[str, str]]:
        """Its texts that are not empty, in the order of templates, each with what the user is told of it."""
        reasoning = [(self.reasoning, f"the reasoning of {self.name}")] if self.reasoning else []
        return [*reasoning, *([(self.text, f"the text of {self.name}")] if self.text else [])]


@attrs.frozen(kw_only=True)
class Request:
    """What a template is to render."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    asks: bool
    """Whether it ends where an answer is to begin."""
    thinks: bool
    """Whether that answer begins with reasoning, where the template knows the switch (Qwen3)."""

    @cached_property
    def slots(self) -> list[tuple[str, str]]:
        """The texts of all messages."""
        return [slot for message in self.messages for slot in message.slots]

    @property
    def shape(self) -> object:
        """What the template's own pieces depend on; None: on too much to be kept."""
        if self.tools or any(message.fields for message in self.messages):
            return None
        kinds = tuple((message.role, bool(message.reasoning), bool(message.text)) for message in self.messages)
        return kinds, self.asks, self.thinks


@attrs.frozen
class Layout:
    """The template's own text before, between and behind the n texts it shows."""

    pieces: tuple[str, ...]
    """n + 1"""
    slots: tuple[int, ...]
    """(n,) numbers of the request's texts. Templates leave out the reasoning of earlier answers."""


@attrs.frozen
class Laid:
    """Pieces, and the n texts between them as the template leaves them (often stripped)."""

    layout: Layout
    texts: tuple[str, ...]


_Form = Callable[[str, str], dict[str, str]]
_FORMS: tuple[_Form, ...] = (
    lambda reasoning, text: {"content": text, "reasoning_content": reasoning},
    lambda reasoning, text: {"content": f"{BEGINNING}{reasoning}{ENDING}{text}"},
)
"""How a template may get reasoning: under a key it knows, or inside the text."""


@attrs.frozen
class ChatTemplate:
    """The template of a tokenizer."""

    tokenizer: PreTrainedTokenizerBase
    clock: TemplateClock
    _layouts: dict[object, Layout] = attrs.field(factory=dict, init=False)

    def render(self, request: Request) -> Laid:
        """The pieces and the texts.

        Raises:
            BadRowError: the template refuses the messages, leaves one out, or writes something else.
        """
        layout = self.layout(request)
        texts = [request.slots[slot][0] for slot in layout.slots]
        fitted = _fitted(self._apply(request, [text for text, _ in request.slots]), layout.pieces, texts)
        if fitted is None:
            raise BadRowError(self._blame(request, layout))
        return Laid(layout, tuple(fitted))

    def layout(self, request: Request) -> Layout:
        """What the template writes around texts, whatever they are.

        Raises:
            BadRowError: the template refuses the messages, or leaves one out.
        """
        shape = request.shape
        if shape is None:
            return self._layout(request)
        if shape not in self._layouts:
            self._layouts[shape] = self._layout(request)
        return self._layouts[shape]

    def _layout(self, request: Request) -> Layout:
        rest, pieces, slots = self._apply(request, _stand_ins(request)), [], []
        for number, (stand_in, (_, name)) in enumerate(zip(_stand_ins(request), request.slots, strict=True)):
            piece, found, behind = rest.partition(stand_in)
            if found:
                pieces.append(piece)
                slots.append(number)
                rest = behind
            elif not name.startswith("the reasoning"):
                raise BadRowError(f"the chat template leaves out {name}")
        return Layout((*pieces, rest), tuple(slots))

    @cached_property
    def _form(self) -> _Form:
        """The first way to hand over reasoning that shows it in a last answer; if there is none, any."""
        exchange = (Message("user", "", "a"), Message("assistant", "", "c", "b"))
        stand_ins = [_STAND_IN.format(number) for number in range(3)]
        request = Request(messages=exchange, asks=False, thinks=True)
        for form in _FORMS:
            try:
                shown = self._apply(request, stand_ins, form)
            except BadRowError:
                continue
            if all(stand_in in shown for stand_in in stand_ins):
                return form
        return _FORMS[0]

    def _blame(self, request: Request, layout: Layout) -> str:
        """Which text it is that the template does something with: one at a time takes the place of its stand-in."""
        stand_ins = _stand_ins(request)
        for number in range(len(stand_ins)):
            texts = [*stand_ins[:number], request.slots[number][0], *stand_ins[number + 1 :]]
            if _fitted(self._apply(request, texts), layout.pieces, [texts[slot] for slot in layout.slots]) is None:
                return f"the chat template rewrites {request.slots[number][1]}"
        return "the chat template depends on the texts of this conversation"

    def _apply(self, request: Request, texts: Sequence[str], form: _Form | None = None) -> str:
        from jinja2 import TemplateError, TemplateSyntaxError

        tools: Any = [dict(tool) for tool in request.tools] or None
        try:
            template = self.tokenizer.get_chat_template(tools=tools)
        except ValueError as error:  # none for this, among several
            names = ", ".join(sorted(self.tokenizer.chat_template))
            raise DataError(
                f"dataset.chat_template: the tokenizer has several chat templates ({names}), of which none is called "
                "default; set it to false, or give the tokenizer one"
            ) from error
        template = self.clock.written_into(template)
        messages = list(_filled(request.messages, iter(texts), form or (lambda *parts: self._form(*parts))))
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    messages,
                    tools,
                    chat_template=template,
                    tokenize=False,
                    add_generation_prompt=request.asks,
                    enable_thinking=request.thinks,
                )
            )
        except TemplateSyntaxError as error:
            raise DataError(f"the tokenizer's chat template is no template: {error}") from error
        except (TemplateError, *_FAILURES) as error:
            raise BadRowError(f"the chat template refuses this conversation: {error}") from error


def _filled(messages: Sequence[Message], texts: Iterator[str], form: _Form) -> Iterator[dict[str, Any]]:
    """The messages with these texts in their places."""
    for message in messages:
        reasoning = next(texts) if message.reasoning else ""
        text = next(texts) if message.text else ""
        content = form(reasoning, text) if reasoning else {"content": text}
        yield {"role": message.role, **content, **message.fields}


def _stand_ins(request: Request) -> list[str]:
    return [_STAND_IN.format(number) for number in range(len(request.slots))]


def _fitted(rendered: str, pieces: Sequence[str], texts: Sequence[str]) -> list[str] | None:
    """The texts as they stand between the pieces; None if something else stands there."""
    if not rendered.startswith(pieces[0]):
        return None
    found, end = [], len(pieces[0])
    for text, piece in zip(texts, pieces[1:], strict=True):
        trimmed = (trim(text) for trim in _TRIMMINGS)
        fitting = next((each for each in trimmed if rendered.startswith(each + piece, end)), None)
        if fitting is None:
            return None
        found.append(fitting)
        end += len(fitting) + len(piece)
    return found if end == len(rendered) else None
