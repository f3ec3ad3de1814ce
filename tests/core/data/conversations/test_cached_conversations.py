"""Fine-tuning rows from the token cache are those that were made, with all that was noticed of them."""

import json
from datetime import datetime

import pytest

from dlm.data.conversations import conversation_rows as module
from dlm.data.conversations.clock import TemplateClock
from dlm.data.conversations.conversation_rows import conversation_rows
from dlm.data.sources import load_source
from dlm.errors import DataError


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv("DLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "_RECORDS_PER_PART", 3)
    rows = [
        {"prompt": f"q{number}", "response": "a" * (number + 1), "score": number / 3, "x": 1} for number in range(20)
    ]
    rows[3]["rare"] = 7
    rows[5]["response"] = None
    rows[6]["prompt"] = "long " * 40
    lines = [json.dumps(row) for row in rows]
    lines[8] = "{broken"
    path = tmp_path / "chats.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def facts_of(rows):
    contents = [
        (row.input_ids.tolist(), row.answer_start.tolist(), row.answer_length.tolist(), row.columns) for row in rows
    ]
    said = (rows.summary(), [str(bad) for bad in rows.unused], rows.notes, rows.column_names)
    return rows.fingerprint, contents, said


@pytest.mark.parametrize("pack", [True, False])
def test_second_start_has_the_same_rows_and_renders_nothing(tokenizer, file, monkeypatch, pack):
    def rows(split):
        options = {"max_length": 32, "skip_bad_rows": True, "pack": pack, "split": split}
        return conversation_rows(load_source(str(file)), tokenizer, **options)

    plain = facts_of(rows(None))
    assert f"{file}:9: not valid JSON" in plain[2][1][2]
    assert "score" in plain[2][3] or pack
    assert facts_of(rows("train")) == plain
    monkeypatch.setattr(module.Examples, "parts", lambda *_: pytest.fail("rendered again"))
    found = rows("train")
    assert facts_of(found) == plain
    assert "nothing is tokenized" in found.origin[0]
    with pytest.raises(DataError, match=f"2 rows cannot be used:\n  {file}:6: .*\n  {file}:9: not valid JSON"):
        conversation_rows(load_source(str(file)), tokenizer, max_length=32, pack=pack, split="train")


def test_every_setting_that_changes_ids_has_a_cache_of_its_own(tokenizer, file):
    def origin(**options):
        settings = {"max_length": 32, "skip_bad_rows": True, "split": "train"} | options
        return conversation_rows(load_source(str(file)), tokenizer, **settings).origin

    changes = [{"max_length": 31}, {"train_on": "last_answer"}, {"long_rows": "drop"}, {"split": "test"}]
    changes += [{"eos_padding": "none"}, {"reasoning": "drop"}, {"format_name": "prompt_response"}]
    for options in ({}, *changes):
        assert "kept in" in origin(**options)[-1]
        assert "nothing is tokenized" in origin(**options)[-1]
    assert "nothing is tokenized" in origin(pack=True)[-1]


def test_template_that_prints_the_time_has_a_cache_for_each_moment(chat_tokenizer, file):
    chat_tokenizer.chat_template = "{{ strftime_now('%Y') }}" + chat_tokenizer.chat_template

    def rows(year):
        clock = TemplateClock(datetime(year, 1, 1))
        options = {"max_length": 64, "chat_template": True, "skip_bad_rows": True, "split": "train"}
        found = conversation_rows(load_source(str(file)), chat_tokenizer, clock=clock, **options)
        assert clock.was_read
        return found

    first, second = rows(2020), rows(2021)
    assert first.fingerprint != second.fingerprint
    again = rows(2020)
    assert (again.fingerprint, "nothing is tokenized" in again.origin[0]) == (first.fingerprint, True)
