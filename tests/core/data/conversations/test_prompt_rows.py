"""Prompts for rollouts: what is asked, what stands before it, and which rows are passed over."""

import json

import pytest

from dlm.data.conversations.prompt_rows import prompt_rows
from dlm.data.conversations.rendering import PlainRendering
from dlm.data.sources import load_source


@pytest.mark.parametrize("column", ["system", "system_prompt"])
def test_a_system_text_stands_before_the_prompt(tokenizer, source_of, column) -> None:
    rows = prompt_rows(source_of({"prompt": "How?", column: "Be brief."}), PlainRendering(tokenizer), longest=60)
    assert tokenizer.decode(rows[0].input_ids) == "Be brief.How?"


def test_tools_that_no_prompt_shows_are_told(tokenizer, source_of) -> None:
    tools = {"tools": [{"name": "look_up"}]}
    source = source_of({"prompt": "How?", **tools}, {"prompt": "Why?"})
    rows = prompt_rows(source, PlainRendering(tokenizer), longest=60)
    assert rows.notes == ("a-set: not shown in prompts: tools",)


def test_rows_passed_over_are_listed_in_the_order_of_the_file(tokenizer, tmp_path) -> None:
    lines = ['{"prompt"', json.dumps({"prompt": "long " * 99}), json.dumps({"prompt": "How?"}), "{}"]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    source = load_source(str(tmp_path / "prompts.jsonl"))
    rows = prompt_rows(source, PlainRendering(tokenizer), longest=60, skip_bad_rows=True)
    assert [prompt.text for prompt in rows.prompts] == ["How?"]
    assert [bad.origin.line for bad in rows.unused] == [1, 2, 4]


def test_what_is_left_out_of_a_folder_is_told(tokenizer, tmp_path) -> None:
    (tmp_path / "train.jsonl").write_text(json.dumps({"prompt": "How?"}))
    (tmp_path / "test.jsonl").write_text(json.dumps({"prompt": "Why?"}))
    rows = prompt_rows(load_source(str(tmp_path)), PlainRendering(tokenizer), longest=60)
    assert rows.notes == (f"{tmp_path}: 1 file read, 1 left out: test.jsonl (split test)",)
