"""Plain tables."""

from hypothesis import given
from hypothesis import strategies as st

from dlm_cli.tables import format_table

CELLS = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=12)


def test_columns_are_aligned_and_nothing_trails() -> None:
    table = format_table(("A", "LONGER", "LAST"), [("1", "2", "3"), ("wide cell", "x", "")])
    assert table == "A          LONGER  LAST\n1          2       3\nwide cell  x"


def test_the_last_column_wraps_under_itself() -> None:
    table = format_table(("N", "TEXT"), [("a", "one two three four five six seven")], width=28)
    assert table == "N  TEXT\na  one two three four five\n   six seven"


def test_a_narrow_screen_still_gets_a_readable_column() -> None:
    assert max(map(len, format_table(("", ""), [("x" * 30, "word " * 20)], width=20).splitlines())) <= 30 + 2 + 24


def test_without_a_header_only_rows_are_written() -> None:
    assert format_table(("", ""), [("a", "b")], indent="  ") == "  a  b"
    assert format_table(("", ""), []) == ""


@given(st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=5))
def test_no_cell_is_ever_cut(rows: list[tuple[str, str, str]]) -> None:
    lines = format_table(("A", "B", "C"), rows).splitlines()
    assert [tuple(line.split()) for line in lines[1:]] == rows
