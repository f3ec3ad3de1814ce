import bz2
import gzip
import json
import lzma
import subprocess
import sys

import pytest
import zstandard

from dlm.data.sources import load_source
from dlm.errors import DataError

ROWS = [{"text": "one line\nand another", "number": "1"}, {"text": 'commas, "quotes" and ü', "number": "2"}]


def write_txt(folder):
    for number, row in enumerate(ROWS):
        (folder / f"{number}.txt").write_text(row["text"], encoding="utf-8")
    return folder


def write_jsonl(folder):
    path = folder / "data.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n\n", encoding="utf-8")
    return path


def write_json(folder):
    path = folder / "data.json"
    path.write_text(json.dumps(ROWS, indent=1), encoding="utf-8")
    return path


def write_json_in_a_key(folder):
    path = folder / "data.json"
    path.write_text(json.dumps({"data": ROWS}), encoding="utf-8")
    return path


def write_json_by_line(folder):
    path = write_jsonl(folder)
    return path.rename(path.with_suffix(".json"))


def write_csv(folder):
    import csv

    path = folder / "data.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["text", "number"])
        writer.writeheader()
        writer.writerows(ROWS)
    return path


def write_parquet(folder):
    import pyarrow
    import pyarrow.parquet

    path = folder / "data.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    return path


COMPRESSIONS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: zstandard.ZstdCompressor().compress(content),
}
WRITERS = [write_txt, write_jsonl, write_json, write_json_in_a_key, write_json_by_line, write_csv, write_parquet]


@pytest.mark.parametrize("write", WRITERS)
def test_every_format_gives_the_same_texts(tmp_path, write):
    source = load_source(str(write(tmp_path)))
    assert [record.values["text"] for record in source.open()] == [row["text"] for row in ROWS]
    assert [record.problem for record in source.open()] == [None, None]


@pytest.mark.parametrize("write", WRITERS)
def test_reading_goes_on_where_a_reader_stood(tmp_path, write):
    source = load_source(str(write(tmp_path)))
    reader = source.open()
    next(reader)
    state = json.loads(json.dumps(reader.state()))
    assert [record.values["text"] for record in source.open(state)] == [ROWS[1]["text"]]
    next(reader)
    assert list(source.open(reader.state())) == []


def test_python_docs_are_always_there():
    records = list(load_source("python-docs").open())
    assert len(records) > 50
    assert any("assert" in record.values["text"] for record in records)
    assert sum(len(record.values["text"]) for record in records) > 300_000


def test_sample_goes_on_where_a_reader_stood():
    source = load_source("python-docs")
    reader = source.open()
    skipped = [next(reader) for _ in range(5)]
    assert skipped + list(source.open(reader.state())) == list(source.open())


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with data that must not be run."""
    folder = tmp_path / "package_with_data"
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    write_jsonl(folder / "data")
    monkeypatch.syspath_prepend(tmp_path)
    return "pkg://package_with_data"


@pytest.mark.parametrize("inside", ["data/data.jsonl", "data"])
def test_files_of_an_installed_package_are_read_without_importing_it(package, inside):
    assert [record.values for record in load_source(f"{package}/{inside}").open()] == ROWS


def test_pattern_chooses_files_in_a_fixed_order(tmp_path):
    for name in ("b.txt", "a.txt", "c.csv"):
        (tmp_path / name).write_text(name)
    source = load_source(f"{tmp_path}/*.txt")
    assert [record.values["text"] for record in source.open()] == ["a.txt", "b.txt"]


def test_folder_is_read_with_its_subfolders_but_without_hidden_files(tmp_path):
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "a.txt").write_text("a")
    (tmp_path / ".hidden.txt").write_text("hidden")
    (tmp_path / "z.txt").write_text("z")
    assert [record.values["text"] for record in load_source(str(tmp_path)).open()] == ["a", "z"]


def test_split_is_read_off_the_file_names(tmp_path):
    for name in ("train-0.txt", "train-1.txt", "test.txt", "trainer.txt"):
        (tmp_path / name).write_text(name)
    assert [r.values["text"] for r in load_source(str(tmp_path), split="test").open()] == ["test.txt"]
    assert [r.values["text"] for r in load_source(str(tmp_path)).open()] == ["train-0.txt", "train-1.txt"]
    with pytest.raises(DataError, match=r"no files of the split 'validation'; splits here: test, train"):
        load_source(str(tmp_path), split="validation")


def test_dots_part_the_name_of_a_file_and_nothing_else_does(tmp_path):
    for name in ("train.en.txt", "ptb.train.txt", "test.en.txt", "train-station.txt", "a.trainer.txt"):
        (tmp_path / name).write_text(name)
    (tmp_path / "v1.test").mkdir()
    (tmp_path / "v1.test" / "train.txt").write_text("in a folder")
    source = load_source(str(tmp_path))
    assert [record.values["text"] for record in source.open()] == ["ptb.train.txt", "train.en.txt", "in a folder"]
    left_out = "3 left out: a.trainer.txt, train-station.txt (in no split), test.en.txt (split test)"
    assert source.notes == (f"{tmp_path}: 3 files read, {left_out}",)


def test_origin_of_a_row_is_its_file_and_line(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "a"}\n\n\n{"text": "b"}\n')
    assert [str(record.origin) for record in load_source(str(path)).open()] == [f"{path}:1", f"{path}:4"]


def test_unreadable_row_is_a_record_with_its_line_and_problem(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "a"}\n{"text": \n[1]\n{"text": "b"}\n')
    records = list(load_source(str(path)).open())
    assert [record.problem is None for record in records] == [True, False, False, True]
    assert records[1].problem.startswith("not valid JSON")
    assert records[2].problem == "expected an object, found list"
    assert str(records[1].origin) == f"{path}:2"


def test_csv_row_with_too_many_fields_has_a_problem(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text('text,number\n"two\nlines",1\na,2,3\n')
    first, second = load_source(str(path)).open()
    assert first.values == {"text": "two\nlines", "number": "1"}
    assert (second.problem, str(second.origin)) == ("3 fields, but the header has 2", f"{path}:4")


def error_of(name, **options):
    """The one line that is said of a data set that cannot be read."""
    with pytest.raises(DataError) as caught:
        list(load_source(name, **options).open())
    (line,) = str(caught.value).split("\n")
    return line


def test_missing_file_names_the_nearest_ones(tmp_path):
    (tmp_path / "train.jsonl").write_text("{}")
    said = error_of(f"{tmp_path}/trian.jsonl")
    assert "no such file" in said
    assert "did you mean 'train.jsonl'?" in said


def test_missing_folder_is_said_to_be_missing(tmp_path):
    said = error_of(f"{tmp_path}/nowhere/a.txt")
    assert "no such file" in said
    assert "nowhere does not exist either" in said


def test_pattern_without_files_is_an_error(tmp_path):
    assert "no file matches" in error_of(f"{tmp_path}/*.txt")


def test_unknown_package_says_what_to_install():
    said = error_of("pkg://no_such_package/data.jsonl")
    assert "no package 'no_such_package'" in said
    assert "pip install no-such-package" in said


def test_missing_file_in_a_package_names_the_nearest_ones(package):
    said = error_of(f"{package}/data/date.jsonl")
    assert "no such file" in said
    assert "did you mean 'data.jsonl'?" in said


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
@pytest.mark.parametrize("content", ["", "\n\n"])
def test_file_without_rows_is_an_error(tmp_path, suffix, content):
    (tmp_path / f"empty.{suffix}").write_text(content)
    assert "no rows" in error_of(f"{tmp_path}/empty.{suffix}")


def test_csv_with_a_header_alone_is_an_error(tmp_path):
    (tmp_path / "empty.csv").write_text("text\n")
    assert "no rows" in error_of(f"{tmp_path}/empty.csv")


def test_empty_json_list_is_an_error(tmp_path):
    (tmp_path / "empty.json").write_text("[]")
    assert "no rows" in error_of(f"{tmp_path}/empty.json")


def test_unknown_format_is_an_error(tmp_path):
    (tmp_path / "a.docx").write_text("x")
    said = error_of(f"{tmp_path}/a.docx")
    assert "unknown format (.docx)" in said
    assert "txt, jsonl, json, csv, parquet" in said
    assert "no file in a known format" in error_of(str(tmp_path))


def test_folder_of_several_formats_asks_for_a_pattern(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "a.jsonl").write_text("{}")
    said = error_of(str(tmp_path))
    assert "files of several formats" in said
    assert "*.jsonl" in said


def test_other_split_of_a_single_file_is_an_error(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    assert "only the split 'train', not 'test'" in error_of(f"{tmp_path}/a.txt", split="test")
    assert "only the split 'train'" in error_of("python-docs", split="test")
    assert "this sample has no options; write python-docs" in error_of("python-docs:long")


def test_broken_json_names_its_line(tmp_path):
    (tmp_path / "a.json").write_text('[\n{"text": "a"},\n{"text" "b"}]')
    assert "a.json:3: not valid JSON" in error_of(f"{tmp_path}/a.json")


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
@pytest.mark.parametrize(("row", "column"), [('{"text": "a"', 13), ('{"text": ]}', 10), ('{"text": "a" "b"}', 14)])
def test_broken_json_names_its_column_whatever_ends_the_line(tmp_path, row, column, end):
    (tmp_path / "a.jsonl").write_bytes(f"{row}{end}".encode())
    [record] = load_source(f"{tmp_path}/a.jsonl").open()
    assert f"(column {column})" in record.problem


def test_json_that_breaks_off_names_the_line_where_it_does(tmp_path):
    (tmp_path / "a.json").write_text('[\n{"text": "a"}\n')
    assert "a.json:2: not valid JSON" in error_of(f"{tmp_path}/a.json")


def test_json_without_objects_is_an_error(tmp_path):
    (tmp_path / "a.json").write_text('"text"')
    assert "expected a list of objects, found str" in error_of(f"{tmp_path}/a.json")


def test_bytes_that_are_not_utf8_name_their_line(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"fine\n\xff")
    assert "a.txt:2: not UTF-8" in error_of(f"{tmp_path}/a.txt")


def test_broken_parquet_is_an_error(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 not really")
    assert "not a readable Parquet file" in error_of(f"{tmp_path}/a.parquet")


def test_hub_that_cannot_be_reached_is_an_error_that_names_the_ways_out(tmp_path):
    # In a process of its own: the hub client reads its settings when it is imported.
    script = "from dlm.data.sources import load_source; load_source('nobody/no-such-data-set')"
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(
        "dlm.errors.DataError: nobody/no-such-data-set: could not be loaded from the Hugging Face hub"
    )
    assert "python-docs" in last


def test_local_sources_do_not_import_the_hub_library():
    script = "import sys, dlm.data.sources as s; s.load_source('python-docs'); print('datasets' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("write", [write_jsonl, write_csv, write_parquet])
def test_reading_a_compressed_file_goes_on_where_a_reader_stood(tmp_path, write, suffix):
    plain = write(tmp_path)
    path = plain.with_name(plain.name + suffix)
    path.write_bytes(COMPRESSIONS[suffix](plain.read_bytes()))
    source = load_source(str(path))
    reader = source.open()
    next(reader)
    assert [record.values["text"] for record in source.open(reader.state())] == [ROWS[1]["text"]]


def test_folders_behind_links_are_read_once_and_what_is_no_file_is_named(tmp_path):
    for folder, name in (("elsewhere", "a.txt"), ("data/b", "b.txt")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / name).write_text(name)
    data = tmp_path / "data"
    (data / "linked").symlink_to(tmp_path / "elsewhere")
    (data / "b" / "up").symlink_to(data)
    (data / "gone.txt").symlink_to(tmp_path / "nowhere")
    source = load_source(str(data))
    assert [record.values["text"] for record in source.open()] == ["b.txt", "a.txt"]
    assert source.notes == (f"{data}: 2 files read, 1 left out: gone.txt (no file behind it)",)


def test_files_of_no_split_are_for_training_where_none_is_called_train(tmp_path):
    for name in ("a.txt", "b.txt", "test.txt.gz"):
        (tmp_path / name).write_bytes(gzip.compress(b"x") if name.endswith("gz") else name.encode())
    source = load_source(str(tmp_path))
    assert [record.values["text"] for record in source.open()] == ["a.txt", "b.txt"]
    assert source.notes == (f"{tmp_path}: 2 files read, 1 left out: test.txt.gz (split test)",)
    assert [record.values["text"] for record in load_source(str(tmp_path), split="test").open()] == ["x"]


def test_pattern_has_no_splits(tmp_path):
    (tmp_path / "test.txt").write_text("x")
    assert "a pattern has only the split 'train', not 'test'" in error_of(f"{tmp_path}/*.txt", split="test")


@pytest.mark.parametrize(
    ("suffix", "content", "words"),
    [
        ("csv", "id,text,text\n1,a,b\n", "several columns are called 'text'"),
        ("csv", "id,text\r1,a\r", "a carriage return outside of quotes"),
        ("json", '{"a": ' + "[" * 100_000, "nested too deeply"),
        ("json", f"[{'9' * 5000}]", "not readable as JSON: Exceeds the limit"),
    ],
)
def test_files_that_lose_something_are_refused(tmp_path, suffix, content, words):
    (tmp_path / f"a.{suffix}").write_text(content, newline="")
    assert words in error_of(f"{tmp_path}/a.{suffix}")


def test_columns_of_one_name_are_refused_in_a_table_too(tmp_path):
    import pyarrow
    import pyarrow.parquet

    columns = [pyarrow.array(["a"]), pyarrow.array(["b"])]
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays(columns, ["text", "text"]), tmp_path / "data.parquet")
    with pytest.raises(DataError, match="several columns are called 'text'"):
        load_source(str(tmp_path / "data.parquet"))
