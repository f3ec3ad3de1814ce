import random

from hypothesis import given, settings
from hypothesis import strategies as st

from dlm.data.conversations.best_fit import best_fit


@settings(deadline=None, max_examples=100)
@given(lengths=st.lists(st.integers(1, 20), max_size=60))
def test_every_example_is_packed_once_and_fits(lengths):
    rows = best_fit(lengths, 20)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in row) <= 20 for row in rows)


@settings(deadline=None, max_examples=100)
@given(lengths=st.lists(st.integers(1, 20), max_size=60))
def test_packing_follows_the_rule(lengths):
    # The rule again, without any index over the room that is left.
    rows = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        room = [20 - sum(lengths[member] for member in row) for row in rows]
        fitting = [(left, number) for number, left in enumerate(room) if left >= lengths[index]]
        if fitting:
            rows[min(fitting)[1]].append(index)
        else:
            rows.append([index])
    assert best_fit(lengths, 20) == rows


def test_rows_are_nearly_full():
    generator = random.Random(0)
    lengths = [generator.randint(50, 600) for _ in range(2000)]
    rows = best_fit(lengths, 2048)
    assert sum(lengths) / (len(rows) * 2048) > 0.98
