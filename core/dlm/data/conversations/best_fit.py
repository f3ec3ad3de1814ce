"""Best-fit packing: which fine-tuning examples share a row."""

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Put examples into as few rows as a simple rule manages: best-fit decreasing (Johnson 1973).

    Longest first, each goes to the row with the least room that still suffices; among equals to the one opened first.
    It needs at most 11/9 of the fewest possible rows, plus a constant, and no example is cut.

    Args:
        lengths: tokens of each example, each from 1 to ``capacity``.
        capacity: tokens in a row.

    Returns:
        Indices of the examples of each row.
    """
    rows: list[list[int]] = []
    with_room: dict[int, list[int]] = {}  # rows by the room they have left, latest first
    rooms: list[int] = []  # the keys, rising
    for index in np.argsort(-np.asarray(lengths, np.int64), kind="stable").tolist():
        length = lengths[index]
        place = bisect_left(rooms, length)
        if place == len(rooms):
            room, number = capacity, len(rows)
            rows.append([])
        else:
            room = rooms[place]
            number = with_room[room].pop()
            if not with_room[room]:
                del with_room[room], rooms[place]
        rows[number].append(index)
        left = room - length
        if left == 0:
            continue
        if left not in with_room:
            insort(rooms, left)
            with_room[left] = []
        insort(with_room[left], number, key=lambda value: -value)
    return rows
