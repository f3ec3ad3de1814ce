import json

import pytest

from dlm.data.sources import MemorySource, load_source
from dlm.data.text_column import TextCounts, find_text_column, read_texts
from dlm.errors import DataError


def source_of(*rows):
    return MemorySource("a-set", rows)


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ({"id": "1", "text": "a"}, "text"),
        ({"content": "a", "title": "b"}, "content"),
        ({"document": "a", "content": "b"}, "content"),
        ({"passage": "a", "number": 3}, "passage"),
        ({"text": None, "body": "a"}, "body"),
    ],
)
def test_text_column_is_found(row, column):
    assert find_text_column(source_of(row)) == column


def test_named_column_is_taken():
    assert find_text_column(source_of({"text": "a", "title": "b"}), "title") == "title"


@pytest.mark.parametrize(
    ("row", "wanted", "parts"),
    [
        ({"title": "a", "body": "b"}, None, ["not clear", "dataset.text_column", "title (str), body (str)"]),
        ({"number": 1, "list": [1]}, None, ["no column holds text", "number (int), list (list)"]),
        ({"title": "a", "body": "b"}, "titel", ["no column 'titel'", "did you mean 'title'?", "body (str)"]),
        ({"title": "a"}, "xyz", ["no column 'xyz' (columns: title (str))"]),
    ],
)
def test_error_lists_the_columns(row, wanted, parts):
    with pytest.raises(DataError) as caught:
        find_text_column(source_of(row), wanted)
    assert all(part in str(caught.value) for part in parts)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("body", "a-set: no column 'body' in the first 100 rows (columns: number (int))"),
        (None, "a-set: no column holds text in the first 100 rows; name one with dataset.text_column"),
    ],
)
def test_a_column_that_comes_too_late_is_not_said_to_be_nowhere(wanted, words):
    source = MemorySource("a-set", ({"number": 1},) * 100 + ({"number": 1, "body": "b"},))
    with pytest.raises(DataError) as caught:
        find_text_column(source, wanted)
    assert str(caught.value).startswith(words)


def test_set_of_unreadable_rows_tells_the_first_reason(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("oops\noops\n")
    with pytest.raises(DataError, match=r"a\.jsonl:1: not valid JSON"):
        find_text_column(load_source(str(path)))


def test_rows_without_text_are_counted_and_reported(caplog):
    rows = [{"text": value} for value in ("a", None, 3, "", " \n", ["a"], "b")]
    counts = TextCounts()
    assert list(read_texts(source_of(*rows, {}), "text", counts)) == ["a", "b"]
    found = (counts.num_rows, counts.num_texts, counts.num_null, counts.num_not_text, counts.num_empty)
    assert found == (8, 2, 2, 2, 2)
    assert counts.num_skipped == 6
    (message,) = caplog.messages
    assert "passed over: 2 null, 2 not text, 2 empty (first: a-set, row 1: null)" in message


def test_half_a_character_is_an_error_that_says_where():
    rows = [{"text": "a"}, {"text": "b \ud800"}]
    message = (
        r"a-set, row 1: 'text' is not valid Unicode: a lone surrogate \(\\ud800\) at character 3; correct or remove"
    )
    with pytest.raises(DataError, match=message):
        list(read_texts(source_of(*rows), "text"))


def test_nothing_is_reported_when_nothing_was_passed_over(caplog):
    assert list(read_texts(source_of({"text": "a"}), "text")) == ["a"]
    assert caplog.messages == []


def test_no_text_at_all_is_an_error():
    with pytest.raises(
        DataError, match="no text left in column 'text': 0 texts in 2 rows; passed over: 1 null, 1 empty"
    ):
        list(read_texts(source_of({"text": None}, {"text": ""}), "text"))


def test_unreadable_row_is_an_error_with_its_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "a"}) + "\n{oops\n")
    with pytest.raises(DataError, match=r"a\.jsonl:2: not valid JSON.*correct or remove"):
        list(read_texts(load_source(str(path)), "text"))
