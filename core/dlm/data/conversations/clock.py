"""The time that a chat template prints (strftime_now): one moment for a whole run, however often it is resumed."""

from datetime import datetime

import attrs


@attrs.define
class TemplateClock:
    """A clock that stands still."""

    now: datetime = attrs.field(factory=datetime.now)
    was_read: bool = attrs.field(default=False, init=False)
    """Whether a template asked for the time."""

    def strftime_now(self, form: str) -> str:
        """The time, written as templates ask for it."""
        self.was_read = True
        return self.now.strftime(form)
