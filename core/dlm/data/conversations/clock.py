"""The time that a chat template prints (strftime_now): one moment for a whole run, however often it is resumed."""

import json
import re
from datetime import datetime

import attrs

from dlm.errors import DataError

_ASKS = re.compile(r"\bstrftime_now\s*\(")
_ASKS_IN_WORDS = re.compile(r"""\bstrftime_now\s*\(\s*(["'])(?P<form>[^"'\\]*)\1\s*\)""")


@attrs.define
class TemplateClock:
    """A clock that stands still."""

    now: datetime = attrs.field(factory=datetime.now)
    was_read: bool = attrs.field(default=False, init=False)
    """Whether a template asks for the time."""

    def written_into(self, template: str) -> str:
        """The template with the time in place of each question for it: transformers hands over data, no functions.

        Raises:
            DataError: the template computes how it wants the time.
        """
        if not _ASKS.search(template):
            return template
        self.was_read = True
        written = _ASKS_IN_WORDS.sub(lambda asked: json.dumps(self.now.strftime(asked["form"])), template)
        if _ASKS.search(written):
            raise DataError(
                "the chat template calls strftime_now with something other than a text, so the time it prints cannot "
                "be kept for the whole run; write the form of the date into the template, or set "
                "dataset.chat_template: false"
            )
        return written
