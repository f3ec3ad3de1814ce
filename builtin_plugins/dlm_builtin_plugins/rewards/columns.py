"""The cell of a row that a reward reads, as a list of values."""

from typing import Any

from dlm_plugins import RewardItem


def values_in(item: RewardItem, column: str) -> list[Any]:
    """What the row has in a column: the cell, or what is in it where it is a list.

    Raises:
        ValueError: there is no such column.
    """
    if column not in item.columns:
        found = ", ".join(map(str, item.columns)) or "none"
        raise ValueError(f"the row has no column {column!r}; its columns are {found}")
    cell = item.columns[column]
    return list(cell) if isinstance(cell, list | tuple) else [cell]
