"""Templates that print the time print the moment of the clock, and say that they were asked."""

from datetime import datetime

import pytest

from dlm.data.conversations.chat_template import ChatTemplateRendering
from dlm.data.conversations.clock import TemplateClock
from dlm.data.conversations.conversation_rows import conversation_rows
from dlm.data.conversations.formats import ANY_FORMAT
from dlm.errors import DataError

PAST = datetime(2020, 2, 29, 23, 59, 58)
TALK = {"prompt": "q", "response": "a"}


@pytest.mark.parametrize(
    "asked", ["strftime_now('%d %b %Y %H:%M:%S')", 'strftime_now ( "%d %b %Y %H:%M:%S" )', "'29 Feb 2020 23:59:58'"]
)
def test_the_time_is_that_of_the_clock(chat_tokenizer, asked):
    chat_tokenizer.chat_template = f"{{{{ '[' + {asked} + ']' }}}}{chat_tokenizer.chat_template}"
    clock = TemplateClock(PAST)
    rendered = ChatTemplateRendering(chat_tokenizer, clock=clock).answer(ANY_FORMAT.parse(TALK), 1)
    assert chat_tokenizer.decode(rendered.prompt).startswith("[29 Feb 2020 23:59:58]<|im_start|>user\nq")
    assert clock.was_read == ("strftime_now" in asked)


def test_rows_differ_with_the_clock_and_with_nothing_else(chat_tokenizer, source_of):
    def fingerprint(clock):
        return conversation_rows(
            source_of(TALK), chat_tokenizer, max_length=99, chat_template=True, clock=clock
        ).fingerprint

    assert fingerprint(TemplateClock(PAST)) == fingerprint(TemplateClock())
    chat_tokenizer.chat_template = "{{ strftime_now('%f') }}" + chat_tokenizer.chat_template
    assert fingerprint(TemplateClock(PAST)) == fingerprint(TemplateClock(PAST)) != fingerprint(TemplateClock())


def test_a_time_in_a_computed_form_is_refused(chat_tokenizer):
    chat_tokenizer.chat_template = "{% set f = '%Y' %}{{ strftime_now(f) }}" + chat_tokenizer.chat_template
    with pytest.raises(DataError, match="calls strftime_now with something other than a text"):
        ChatTemplateRendering(chat_tokenizer).answer(ANY_FORMAT.parse(TALK), 1)
