"""Files as people have them: each is read for what it is, or refused in one line that says where; nothing is lost."""

import csv
import gzip
import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

import dlm
from dlm_cli.main import main

SENTENCE = "A page about the {} and its stops, where people wait. "


@attrs.frozen
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    def says(self, words: str) -> bool:
        """Whether it printed this, wherever lines were broken."""
        return "".join(words.split()) in "".join((self.out + self.err).split())


@pytest.fixture(scope="module")
def model(tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("converted") / "model"
    dlm.convert(tiny.checkpoint, folder)
    return folder


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str, stdin: bytes = b"") -> Ended:
        monkeypatch.setattr(sys, "argv", ["dlm", *arguments])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="ascii"))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        assert not Path("~").exists()
        return Ended(int(ended.value.code or 0), *capsys.readouterr())

    return command


@pytest.fixture
def preview(run: Callable[..., Ended], model: Path) -> Callable[..., Ended]:
    """``dlm data preview`` of a data set, in pre-training."""
    Path("run.yaml").write_text(
        "training: {mode: pretrain, output_dir: out, max_steps: 4, batch_size: 2}\n"
        f"model: {{name_or_path: {model}}}\ndataset: {{name: nothing, max_length: 32}}\n"
        "evaluation: {do_eval_loss: false}\n"
    )
    return lambda name, *changes: run("data", "preview", "run.yaml", f"dataset.name={name}", *changes)


@pytest.fixture
def results(run: Callable[..., Ended], model: Path) -> Callable[[str], list[str]]:
    """The prompts that ``dlm generate`` takes from a file."""

    def read(name: str) -> list[str]:
        lengths = ["--gen_length", "2", "--block_length", "2"]
        ended = run("generate", "--model", str(model), "--prompt-file", name, "--out", "o.jsonl", *lengths)
        assert ended.code == 0, ended
        return [json.loads(line)["prompt"] for line in Path("o.jsonl").read_bytes().splitlines()]

    return read


def refused(ended: Ended, *words: str) -> None:
    """It is one line, which says all of this."""
    assert ended.code == 2, ended
    assert ended.err.startswith("dlm: ")
    assert ended.err.count("\n") == 1
    assert all(word in ended.err for word in words), ended.err


def write_pages(folder: str, *names: str) -> None:
    for name in names:
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(SENTENCE.format(path.stem) * 9)


def test_the_name_of_a_split_at_the_start_of_a_name_says_nothing(preview: Callable[..., Ended]) -> None:
    write_pages("transit", "bus.txt", "ferry.txt", "train-station.txt", "test-drive.txt", "dev.team/tram.txt")
    ended = preview("transit")
    assert ended.says("5 documents"), ended
    assert not ended.says("left out")


def test_splits_are_whole_parts_of_a_path_and_what_they_leave_out_is_named(
    preview: Callable[..., Ended], run: Callable[..., Ended]
) -> None:
    write_pages("by-split", "data/train/a.txt", "data/test/b.txt", "data/test/c.txt", "d.txt", "readme.md", ".git/x")
    left_out = (
        "by-split: 1 file read, 5 left out: d.txt (in no split), data/test/b.txt, data/test/c.txt (split test), "
        "readme.md (format not known), 1 hidden"
    )
    for command in (["data", "preview"], ["run", "--dry-run"], ["run"]):
        ended = run(*command, "run.yaml", "dataset.name=by-split")
        assert (ended.code, ended.says(left_out)) == (0, True), ended
    assert preview("by-split", "dataset.split=test").says("2 documents")


def test_compressed_files_are_read_beside_plain_ones(preview: Callable[..., Ended]) -> None:
    Path("mixed").mkdir()
    rows = [json.dumps({"text": SENTENCE.format(number) * 9}) + "\n" for number in range(4)]
    Path("mixed/a.jsonl").write_text(rows[0] + rows[1])
    Path("mixed/b.jsonl.gz").write_bytes(gzip.compress((rows[2] + rows[3]).encode()))
    assert preview("mixed").says("4 documents")


def test_the_pattern_that_is_suggested_matches(preview: Callable[..., Ended]) -> None:
    write_pages("several [1]", "sub/a.TXT", "sub/b.TXT", "c.csv", "sub/d.jsonl")
    ended = preview("several [1]")
    refused(ended, "several formats (1 .csv, 2 .txt, 1 .jsonl)")
    pattern = ended.err.rpartition("such as ")[2].strip()
    assert preview(json.dumps(pattern)).says("2 documents"), pattern


def test_a_folder_of_save_to_disk_is_read_as_what_it_is(preview: Callable[..., Ended]) -> None:
    datasets = pytest.importorskip("datasets")
    one = datasets.Dataset.from_list([{"text": SENTENCE.format(number) * 9} for number in range(3)])
    one.save_to_disk("one")
    datasets.DatasetDict(train=one, test=one.select([0, 1])).save_to_disk("several")
    assert preview("./one").says("3 documents")
    assert preview("several").says("several: split train read, left out: test")
    assert preview("several", "dataset.split=test").says("2 documents")
    refused(preview("several", "dataset.split=dev"), "no split 'dev' in this saved data set; splits here: train, test")


def test_prompts_are_split_at_line_feeds_alone(results: Callable[[str], list[str]]) -> None:
    prompts = ["The\x0cvalue of", "The class\u2028is\x85 now\x1d or\u2029never"]
    Path("lf.txt").write_bytes("\n".join(prompts).encode())
    Path("crlf.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*prompts, "", ""]).encode())
    lines = [json.dumps({"prompt": prompt}, ensure_ascii=False) for prompt in prompts]
    Path("p.jsonl").write_bytes("\n".join(lines).encode())
    Path("p.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    for name in ("lf.txt", "crlf.txt", "p.jsonl", "p.jsonl.gz"):
        assert results(name) == prompts, name


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("p.jsonl", b'{"prompt": "a"}\n\n{"prompt": "a \\ud800 b"}\n', ["p.jsonl:3: ", "lone surrogate", "\\ud800"]),
        ("p.jsonl", b'{"prompt": "a"}\n{"prompt": "\xff"}\n', ["p.jsonl:2: not UTF-8"]),
        ("p.jsonl", b"[" * 100_000, ["p.jsonl:1: ", "nested too deeply"]),
        ("p.jsonl", b'{"prompt": %s}' % (b"1" * 5000), ["p.jsonl:1: not readable as JSON"]),
        ("p.txt", "a\nb\n".encode("utf-16"), ["p.txt:1: not UTF-8 but UTF-16"]),
        ("p.txt", b"a\nb\xe9\n", ["p.txt:2: not UTF-8"]),
        ("p.txt.gz", gzip.compress(b"a\n" * 99, mtime=0)[:-12], ["p.txt.gz: not a whole .gz file"]),
        ("p.txt", None, ["p.txt: cannot be read: No such file"]),
    ],
)
def test_prompts_that_are_no_text_are_one_line(
    run: Callable[..., Ended], model: Path, name: str, content: bytes | None, words: list[str]
) -> None:
    if content is not None:
        Path(name).write_bytes(content)
    refused(run("generate", "--model", str(model), "--prompt-file", name), *words)


def test_halves_of_characters_on_the_command_line_are_refused(run: Callable[..., Ended], model: Path) -> None:
    # What Python makes of a byte that is not UTF-8 in an argument.
    for option, text in (("--prompt", "a \udcff"), ("--infill", "a <|mask|> \udcff")):
        refused(run("generate", "--model", str(model), option, text), "not valid Unicode", "\\udcff")


def test_chat_takes_lines_as_they_are_piped_in(run: Callable[..., Ended], model: Path) -> None:
    chat = ["chat", "--model", str(model), "--gen_length", "2", "--block_length", "2"]
    ended = run(*chat, stdin="é\u2028one line\r\nand\x85another\n/exit\n".encode())
    assert (ended.code, ended.out.count("\n") >= 2) == (0, True), ended
    ended = run(*chat, stdin=b"fine\n\xff\n")
    assert (ended.code, ended.err.splitlines()[-1][:38]) == (2, "dlm: standard input:2: not UTF-8 (byte"), ended


def test_a_field_of_a_csv_may_have_any_length(preview: Callable[..., Ended]) -> None:
    with Path("long.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "text"], [1, "A word and another. " * 10_000], [2, "Short text here."]])
    assert preview("long.csv").says("2 documents")


@pytest.mark.parametrize(("delimiter", "name"), [(";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")])
def test_the_delimiter_of_a_csv_is_found_and_told(preview: Callable[..., Ended], delimiter: str, name: str) -> None:
    rows = [["id", "body"], *([str(number), f'{SENTENCE.format(number)}, 0,5 "quoted"'] for number in range(9))]
    with Path("d.csv").open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    ended = preview("d.csv", "dataset.text_column=body")
    assert ended.says("9 documents"), ended
    assert ended.says(f"d.csv: columns are separated by {name}")


@pytest.mark.parametrize("header", ["id:text", "id^text^more", "A first sentence, without a header, is no name."])
def test_one_suspicious_column_of_a_csv_is_refused(preview: Callable[..., Ended], header: str) -> None:
    Path("d.csv").write_text("".join(f'"{each}"\n' for each in [header, "1:a", "2:b"]))
    refused(preview("d.csv"), "d.csv: a single column", "the header is missing, or columns are separated by")


def test_rows_under_a_key_are_found_and_told(preview: Callable[..., Ended]) -> None:
    rows = [{"text": SENTENCE.format(number)} for number in range(20)]
    Path("squadlike.json").write_text(json.dumps({"version": "v2.0", "data": rows}))
    ended = preview("squadlike.json")
    assert ended.says("20 documents"), ended
    assert ended.says("squadlike.json: the rows are those under 'data'; not read: 'version'")
    Path("two.json").write_text(json.dumps({"train": rows, "test": rows}))
    refused(preview("two.json"), "lists of objects under several keys ('train', 'test')")


def test_the_column_that_was_guessed_is_told(preview: Callable[..., Ended]) -> None:
    Path("d.jsonl").write_text(json.dumps({"id": 3, "passage": SENTENCE * 9}))
    assert preview("d.jsonl").says("d.jsonl: the text is in column 'passage'")
    assert not preview("d.jsonl", "dataset.text_column=passage").says("the text is in")


def test_half_a_character_in_data_is_one_line(preview: Callable[..., Ended]) -> None:
    Path("d.jsonl").write_text('{"text": "fine"}\n\n{"text": "not \\udc00"}\n')
    refused(preview("d.jsonl"), "d.jsonl:3: 'text' is not valid Unicode", "\\udc00")


def test_half_a_character_in_a_run_file_is_one_line_and_two_halves_are_one(preview: Callable[..., Ended]) -> None:
    write_pages("pages", "a.txt")
    ended = preview("pages", 'evaluation.sample_prompts=["\\ud83d"]')
    assert ended.code == 2
    assert re.search("evaluation.sample_prompts.0.*cannot be read as str", ended.err)
    assert preview("pages", 'evaluation.sample_prompts=["\\ud83d\\ude00"]').code == 0
