import json

import datasets
import pytest

from dlm.data.hub import DownloadedSource, StreamedSource, load_from_hub
from dlm.data.sources import load_source
from dlm.data.text_column import other_columns
from dlm.errors import DataError

ROWS = [{"text": f"row {number}"} for number in range(10)]


@pytest.fixture(params=["downloaded", "streamed"])
def source(request):
    dataset = datasets.Dataset.from_list(ROWS)
    if request.param == "downloaded":
        return DownloadedSource("a-set", dataset, "abc")
    return StreamedSource("a-set", dataset.to_iterable_dataset(num_shards=2), "abc")


def test_rows_come_in_order_with_their_number(source):
    records = list(source.open())
    assert [record.values for record in records] == ROWS
    assert str(records[3].origin) == "a-set, row 3"


@pytest.mark.parametrize("num_read", [0, 1, 4, 5, 9, 10])
def test_reading_goes_on_where_a_reader_stood_even_the_second_time(source, num_read):
    reader = source.open()
    for _ in range(num_read):
        next(reader)
    state = json.loads(json.dumps(reader.state()))
    for _ in range(2):
        resumed = source.open(state)
        assert [record.values for record in resumed] == ROWS[num_read:]
        state = json.loads(json.dumps(source.open(state).state()))


def test_two_readers_do_not_disturb_each_other(source):
    one, other = source.open(), source.open()
    next(one)
    next(one)
    assert next(other).values == ROWS[0]
    assert next(one).values == ROWS[2]


def test_number_of_rows_is_known_where_it_can_be(source):
    assert source.num_records == (10 if isinstance(source, DownloadedSource) else None)


def test_row_that_cannot_be_read_is_named():
    def rows():
        yield {"text": "fine"}
        raise OSError("connection lost")

    broken = StreamedSource("a-set", datasets.IterableDataset.from_generator(rows), "abc")
    reader = broken.open()
    next(reader)
    with pytest.raises(DataError, match="a-set, row 1: could not be read"):
        next(reader)


@pytest.mark.parametrize("streaming", [True, False])
def test_the_identity_is_the_revision(tmp_path, monkeypatch, streaming):
    """A folder that the ``datasets`` library reads stands in for the hub: its revision changes with its files."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    found = []
    for folder, text in (("one", "a"), ("one", "a"), ("two", "b")):
        path = tmp_path / folder / "train.jsonl"
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            path.write_text(json.dumps({"text": text}) + "\n")
        source = load_from_hub(str(path.parent), split="train", streaming=streaming)
        assert [record.values for record in source.open()] == [{"text": text}]
        found.append(source.identity)
    assert found[0] == found[1] != found[2]
    assert found[0].startswith("revision ")


@pytest.mark.parametrize("kind", ["numpy", "torch", "pandas", "arrow"])
def test_format_that_a_data_set_was_saved_with_changes_none_of_its_values(tmp_path, kind):
    rows = [{"text": "one", "vector": [1.0, 2.0], "number": 3}]
    saved = datasets.Dataset.from_list(rows)
    saved.set_format(kind, columns=["vector"])
    saved.save_to_disk(str(tmp_path / "saved"))
    source = load_source(str(tmp_path / "saved"))
    assert [record.values for record in source.open()] == rows
    assert other_columns(source, "text") == ("vector", "number")
