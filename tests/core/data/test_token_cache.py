"""What is tokenized once is found again, gone on with, made anew where it is not what it was, and never in the way."""

import copy
import fcntl
import json
import logging
import multiprocessing
import os
import resource
import shutil
import threading

import numpy as np
import pytest

from dlm.data import token_cache, tokenization
from dlm.data.packing import text_rows
from dlm.data.sources import load_source
from dlm.data.token_cache import cache_folder, tokenized
from dlm.data.token_store import TokenWriter
from dlm.data.tokenization import Documents
from dlm.data.tokenizer_training import train_tokenizer
from dlm.errors import DataError, UserInputError

NUM_TEXTS = 60


class CountedDocuments(Documents):
    """Notes how many texts are tokenized, and may be interrupted."""

    last = None

    def parts(self, state=None):
        self.num_tokenized = 0
        for part in super().parts(state):
            self.num_tokenized += len(part.ids)
            if self.last is not None and self.num_tokenized > self.last:
                raise KeyboardInterrupt
            yield part


@pytest.fixture(autouse=True)
def _one_text_a_part(monkeypatch):
    monkeypatch.setattr(tokenization, "_BATCH_TEXTS", 1)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "texts.jsonl"
    rows = [{"text": f"text {number} " * (number % 5 + 1)} for number in range(NUM_TEXTS)]
    rows[7] = {"text": ""}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def get(file, tokenizer, cache, *, last=None, shard_tokens=200):
    """Returns what was found, and how many texts were tokenized for it."""
    recipe = CountedDocuments(load_source(str(file)), "text", tokenizer)
    recipe.last, recipe.num_tokenized = last, 0
    return tokenized(recipe, "train", folder=cache, shard_tokens=shard_tokens), recipe


def entry_of(cache):
    (manifest,) = (cache / "tokens").glob("*/manifest.json")
    return manifest.parent


def test_second_start_tokenizes_nothing_and_says_so(file, tokenizer, tmp_path, caplog):
    first, recipe = get(file, tokenizer, tmp_path)
    assert recipe.num_tokenized == NUM_TEXTS - 1
    with caplog.at_level(logging.WARNING):
        second, again = get(file, tokenizer, tmp_path)
    assert again.num_tokenized == 0
    assert second.origin == (f"tokens: read from {entry_of(tmp_path)}, nothing is tokenized",)
    assert second.store.digest == first.store.digest
    # What is said of the rows of the source is said at each start, with the line.
    assert again.findings == recipe.findings
    assert "59 texts in 60 rows; passed over: 1 empty" in caplog.text
    assert f"{file}:8: empty" in caplog.text


@pytest.mark.parametrize("shard_tokens", [1, 50, 1 << 26])
def test_rows_and_fingerprints_are_those_of_tokenizing_in_memory(
    file, tokenizer, store_documents, tmp_path, shard_tokens
):
    texts = [json.loads(line)["text"] for line in file.read_text().splitlines()]
    expected = text_rows(store_documents(filter(None, texts), tokenizer), max_length=16)
    for _ in range(2):
        found, _ = get(file, tokenizer, tmp_path, shard_tokens=shard_tokens)
        rows = text_rows(found.store, max_length=16)
        assert rows.fingerprint == expected.fingerprint
        assert [row.input_ids.tolist() for row in rows] == [row.input_ids.tolist() for row in expected]


def test_manifest_tells_tokenizer_sources_and_digests(file, tokenizer, tmp_path):
    found, _ = get(file, tokenizer, tmp_path)
    manifest = json.loads((entry_of(tmp_path) / "manifest.json").read_text())
    assert manifest["key"]["tokenizer"] == token_cache.tokenizer_hash(tokenizer)
    assert manifest["digest"] == found.store.digest
    sha256 = {path.name: token_cache._facts(path).sha256 for path in (file, *entry_of(tmp_path).glob("0*"))}
    assert {each["name"]: each["sha256"] for each in manifest["sources"] + manifest["files"]} == sha256


@pytest.mark.parametrize("last", [1, 20, 45])
def test_interrupted_tokenizing_goes_on(file, tokenizer, tmp_path, last):
    whole, _ = get(file, tokenizer, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        get(file, tokenizer, tmp_path / "cache", last=last)
    found, recipe = get(file, tokenizer, tmp_path / "cache")
    assert found.store.digest == whole.store.digest
    assert recipe.findings.num_rows == NUM_TEXTS
    shard = 15  # documents that make 200 ids
    assert recipe.num_tokenized <= NUM_TEXTS - last + 2 * shard
    assert (last == 1) == (recipe.num_tokenized == NUM_TEXTS - 1)
    assert (last == 1) == (len(found.origin) == 1)


def test_interrupted_tokenizing_of_a_file_that_changed_begins_anew(file, tokenizer, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        get(file, tokenizer, tmp_path, last=45)
    file.write_text(file.read_text().replace("text 1 ", "TEXT 1 "), encoding="utf-8")
    assert get(file, tokenizer, tmp_path)[1].num_tokenized == NUM_TEXTS - 1


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "flipped": flipped,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: path.write_bytes(b""),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["manifest.json", "00001.ids", "00001.npz"])
def test_damaged_cache_is_made_again_and_it_is_said(file, tokenizer, tmp_path, damage, name):
    whole, _ = get(file, tokenizer, tmp_path)
    DAMAGES[damage](entry_of(tmp_path) / name)
    found, recipe = get(file, tokenizer, tmp_path)
    assert recipe.num_tokenized == NUM_TEXTS - 1
    assert found.store.digest == whole.store.digest
    assert found.origin[0].startswith(f"tokens: made again, since {entry_of(tmp_path).name} is damaged: {name}")
    assert get(file, tokenizer, tmp_path)[1].num_tokenized == 0


def test_what_a_process_left_that_was_killed_while_it_made_way_is_removed(file, tokenizer, tmp_path):
    get(file, tokenizer, tmp_path)
    entry = entry_of(tmp_path)
    entry.rename(entry.with_name(f"{entry.name}.old-1"))
    get(file, tokenizer, tmp_path)
    assert {path.name for path in entry.parent.iterdir()} == {entry.name, f"{entry.name}.lock"}


def test_cache_that_was_moved_or_touched_is_read_once_and_good(file, tokenizer, tmp_path):
    get(file, tokenizer, tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    file.touch()
    for path in entry_of(tmp_path / "other").iterdir():
        path.touch()
    assert get(file, tokenizer, tmp_path / "other")[1].num_tokenized == 0
    flipped(entry_of(tmp_path / "one") / "00000.ids")
    (entry_of(tmp_path / "one") / "seen.json").unlink()
    assert get(file, tokenizer, tmp_path / "one")[1].num_tokenized == NUM_TEXTS - 1


def test_other_tokenizer_has_a_cache_of_its_own_and_it_is_said(file, tokenizer, tmp_path):
    get(file, tokenizer, tmp_path)
    other = train_tokenizer(["some other text"], vocab_size=260)
    found, recipe = get(file, other, tmp_path)
    assert recipe.num_tokenized == NUM_TEXTS - 1
    assert found.origin[0] == "tokens: made again, since what is there is of another tokenizer"
    assert get(file, tokenizer, tmp_path)[1].num_tokenized == 0


def write_in_the_middle(file, text, *, keep_time=False):
    """Replace as many characters behind the middle of a file, and nothing else that is looked at without reading it."""
    content, status = file.read_text(), file.stat()
    middle = content.index('"text": "', len(content) // 2) + len('"text": "')
    file.write_text(content[:middle] + text + content[middle + len(text) :], encoding="utf-8")
    if keep_time:
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.fixture
def large_file(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text((json.dumps({"text": "abc", "note": "-" * 4000}) + "\n") * 50, encoding="utf-8")
    return path


@pytest.mark.parametrize("keep_time", [False, True], ids=["at a later time", "with its time, as archives keep it"])
def test_change_in_the_middle_of_a_large_file_is_seen(large_file, tokenizer, tmp_path, keep_time):
    before, _ = get(large_file, tokenizer, tmp_path)
    write_in_the_middle(large_file, "xyz", keep_time=keep_time)
    found, recipe = get(large_file, tokenizer, tmp_path)
    assert found.origin[0] == f"tokens: made again, since {large_file} has changed"
    assert recipe.num_tokenized == 50
    assert found.store.digest != before.store.digest


def test_file_that_changes_while_it_is_tokenized_is_read_again_by_the_next_start(large_file, tokenizer, tmp_path):
    class Overtaken(CountedDocuments):
        def parts(self, state=None):
            yield from super().parts(state)
            write_in_the_middle(large_file, "xyz")

    before = tokenized(Overtaken(load_source(str(large_file)), "text", tokenizer), "train", folder=tmp_path)
    found, recipe = get(large_file, tokenizer, tmp_path)
    assert found.origin[0] == f"tokens: made again, since {large_file} has changed"
    assert recipe.num_tokenized == 50
    assert found.store.digest != before.store.digest


def test_folder_that_cannot_be_written_is_done_without_and_it_is_said(file, tokenizer, tmp_path):
    whole, _ = get(file, tokenizer, tmp_path / "whole")
    (tmp_path / "cache").write_text("a file")
    found, _ = get(file, tokenizer, tmp_path / "cache")
    assert found.store.digest == whole.store.digest
    assert found.origin == (
        f"tokens: not kept ({tmp_path / 'cache'}: Not a directory); DLM_CACHE names another folder",
    )


def test_full_disk_is_done_without_and_it_is_said(file, tokenizer, tmp_path):
    whole, _ = get(file, tokenizer, tmp_path / "whole")
    largest = max(path.stat().st_size for path in entry_of(tmp_path / "whole").iterdir())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest - 1, before[1]))
    try:
        found, recipe = get(file, tokenizer, tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert found.store.digest == whole.store.digest
    assert recipe.findings.num_rows == NUM_TEXTS
    assert found.origin[0].startswith(f"tokens: not kept ({tmp_path / 'cache'}: File too large)")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_data_that_cannot_be_used_leaves_no_beginning(file, tokenizer, tmp_path):
    file.write_text(file.read_text() + "no JSON\n", encoding="utf-8")
    with pytest.raises(DataError, match=f"{file}:61: not valid JSON"):
        get(file, tokenizer, tmp_path)
    assert not list((tmp_path / "tokens").glob("*/*"))


def test_cache_folder_is_named_by_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("DLM_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.setenv("DLM_CACHE", "off")
    assert cache_folder() is None
    monkeypatch.setenv("DLM_CACHE", "$NOT_THERE_AT_ALL/x")
    with pytest.raises(UserInputError, match=r"DLM_CACHE: .* NOT_THERE_AT_ALL is not set"):
        cache_folder()
    monkeypatch.delenv("DLM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own" / "dlm"


def _take(file, tokenizer, cache, barrier, results):
    barrier.wait()
    found, recipe = get(file, tokenizer, cache)
    results.put((found.store.digest, recipe.num_tokenized))


def test_processes_that_start_at_once_tokenize_once(file, tokenizer, tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(4), context.Queue()
    arguments = (file, tokenizer, tmp_path, barrier, results)
    processes = [context.Process(target=_take, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert len({digest for digest, _ in found}) == 1
    assert sorted(number for _, number in found) == [0, 0, 0, NUM_TEXTS - 1]


@pytest.mark.parametrize(("rank", "number_on_host", "says"), [(0, 0, True), (1, 1, False), (8, 0, True)])
def test_one_process_of_each_host_says_that_it_waits(
    file, tokenizer, tmp_path, monkeypatch, capsys, rank, number_on_host, says
):
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("LOCAL_RANK", str(number_on_host))
    get(file, tokenizer, tmp_path)
    entry = entry_of(tmp_path)
    monkeypatch.setattr(token_cache, "_WAIT", 0.01)
    shutil.rmtree(entry)
    lock = os.open(f"{entry}.lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    timer = threading.Timer(0.3, os.close, [lock])
    timer.start()
    assert get(file, tokenizer, tmp_path)[1].num_tokenized == NUM_TEXTS - 1
    timer.join()
    assert capsys.readouterr().err == "dlm: waiting for another process that tokenizes the same data\n" * says


def test_files_of_what_was_never_finished_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    writer = TokenWriter(shard_tokens=2)
    writer.append([np.arange(4, dtype=np.int32)])
    assert list(tmp_path.glob("dlm-tokens-*"))
    del writer
    assert not list(tmp_path.iterdir())


def test_files_of_what_was_finished_stay_as_long_as_the_store(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    writer = TokenWriter(shard_tokens=2)
    writer.append([np.arange(4, dtype=np.int32)])
    store = writer.finish()
    del writer
    assert store.span(0, 4).tolist() == [0, 1, 2, 3]
    assert list(tmp_path.glob("dlm-tokens-*"))
    del store
    assert not list(tmp_path.iterdir())


def test_what_a_call_left_in_a_tokenizer_makes_no_other_of_it(tokenizer):
    changed = copy.deepcopy(tokenizer)
    changed.backend_tokenizer.enable_truncation(16)
    changed.backend_tokenizer.enable_padding(length=16)
    before = token_cache.tokenizer_hash(changed)
    assert len(next(tokenization.encode_texts(["many words " * 40], changed))) > 16
    assert before == token_cache.tokenizer_hash(changed) == token_cache.tokenizer_hash(tokenizer)
