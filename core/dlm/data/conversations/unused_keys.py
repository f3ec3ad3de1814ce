"""Keys of conversation rows that nobody reads: noted while the data set is read, and named once."""

from collections.abc import Collection, Mapping
from typing import Any

import attrs


@attrs.define
class Fields:
    """The keys of one object, with a note of those that were read."""

    values: Mapping[str, Any]
    _read: set[str] = attrs.field(factory=set, init=False)

    def get(self, key: str) -> Any:
        """The value, or None; the key counts as read."""
        self._read.add(key)
        return self.values.get(key)

    def has(self, key: str) -> bool:
        """Whether there is something under this key; it does not count as read."""
        return not _is_nothing(self.values.get(key))

    @property
    def unread(self) -> list[str]:
        """Keys with something in them that nobody read."""
        return [key for key in self.values if key not in self._read and self.has(key)]


@attrs.define
class UnusedKeys:
    """What was not used in all the rows so far, in the order in which it was met."""

    columns: dict[str, None] = attrs.field(factory=dict)
    of_turns: dict[str, None] = attrs.field(factory=dict)

    def add(self, row: Fields, turns: Collection[Fields] = ()) -> None:
        """Note what is left over of a row, and of the turns in it."""
        self.columns.update(dict.fromkeys(row.unread))
        for turn in turns:
            self.of_turns.update(dict.fromkeys(turn.unread))

    def lines(self, name: str, used: Collection[str] = ()) -> tuple[str, ...]:
        """One line for people, or none.

        Args:
            name: of the data set.
            used: columns that turned out to be of use.
        """
        columns = [column for column in self.columns if column not in used]
        parts = [f"columns not used: {', '.join(columns)}"] if columns else []
        parts += [f"keys of turns not used: {', '.join(self.of_turns)}"] if self.of_turns else []
        return (f"{name}: {'; '.join(parts)}",) if parts else ()


def _is_nothing(value: object) -> bool:
    return value is None or (isinstance(value, (str, list, tuple, dict)) and not value)
