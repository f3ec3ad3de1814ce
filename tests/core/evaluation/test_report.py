"""The page and ``report.json``: logs with any text, and figures that a single item cannot have."""

import json
from pathlib import Path

import pytest

from dlm.config.eval_options import EvalOptions
from dlm.data.tokenizer_training import train_tokenizer
from dlm.evaluation.at_end import _contents_of
from dlm.evaluation.evaluate import new_report
from dlm.evaluation.items import metric_figures
from dlm.evaluation.own_rows import byte_counter, run_of
from dlm.evaluation.plots import _histogram
from dlm.evaluation.report import interval_text, page_of, write_report
from dlm.sampling.arguments import component
from dlm_plugins import Choice, MetricItem


def test_a_line_separator_in_a_sample_hides_no_later_one(tmp_path: Path) -> None:
    samples = [
        {"step": step, "prompt": "The", "text": f"{separator}written-{step}"}
        for step, separator in enumerate("\u2028\x85a")
    ]
    lines = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in samples).encode()
    # A run that is writing may stop within a character.
    (tmp_path / "samples.jsonl").write_bytes(lines + '{"step": 3, "text": "é'.encode()[:-1])
    page, _ = page_of({}, tmp_path)
    assert [f"written-{step}" in page for step in range(3)] == [True] * 3


def test_a_single_item_has_no_interval_and_the_report_stays_json(tmp_path: Path) -> None:
    items = [MetricItem(choices=(Choice(text="a", log_likelihood=-1.5, num_tokens=1),))]
    found = metric_figures({"elbo": component("metric", "elbo")}, items, "likelihood")
    assert (found["elbo"]["value"], found["elbo"]["interval"]) == (1.5, None)
    assert interval_text(found["elbo"]["interval"]) == "-"
    report = new_report("one", "dlm eval", EvalOptions()) | {"found": found, "diverged": float("nan")}
    write_report(tmp_path, report, None)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    read = json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)
    assert read["diverged"] is None


def test_the_run_of_a_model_is_found_from_within_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    final = tmp_path / "run" / "final"
    final.mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").touch()
    monkeypatch.chdir(final)
    assert run_of(".") == tmp_path / "run"


def test_bytes_of_rows_that_begin_or_end_within_a_character_add_up_to_those_of_the_text() -> None:
    text = "天地玄黃, 宇宙洪荒 é 🙂 " * 3
    tokenizer = train_tokenizer([text], vocab_size=262)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    count = byte_counter(tokenizer)
    for size in (1, 2, 5, len(ids)):
        rows = [ids[start : start + size] for start in range(0, len(ids), size)]
        assert sum(count(row) for row in rows) == len(text.encode())
    assert count([tokenizer.eos_token_id]) == 0


def test_margins_that_are_no_numbers_leave_the_page_whole() -> None:
    pictures = [_histogram({"diverged": values}) for values in ([float("nan")] * 3, [float("nan"), 1.0, None])]
    assert all(picture.startswith("<svg") for picture in pictures)


def test_a_report_that_cannot_be_written_leaves_the_older_one(tmp_path: Path) -> None:
    write_report(tmp_path, {"title": "older"}, None)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UnicodeEncodeError):
        write_report(tmp_path, {"title": "newer \ud800"}, None)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_a_changed_file_in_a_folder_of_data_is_evaluated_anew(tmp_path: Path, size: int) -> None:
    file, half = tmp_path / "a.txt", "x" * size
    file.write_text(f"{half}1{half}")
    options = EvalOptions(data=str(tmp_path), questions=str(file))
    before = _contents_of(options)
    assert _contents_of(options) == before
    file.write_text(f"{half}2{half}")  # as long as before, and other in its middle alone
    after = _contents_of(options)
    assert all(after[name] != before[name] for name in ("data", "questions"))
