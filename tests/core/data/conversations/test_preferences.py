"""Preference data: the published forms, rows that are wrong, and pairs that nothing takes apart."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlm.data.batch import Collator, StepShape
from dlm.data.conversations.preferences import PreferenceRows, preference_rows, read_pair, read_pair_texts
from dlm.data.conversations.turns import BadRowError
from dlm.data.loader import StepLoader
from dlm.data.split import split_rows
from dlm.errors import DataError

ANSWER = {"role": "assistant", "content": "Good."}
WORSE = {"role": "assistant", "content": "Bad."}
QUESTION = {"role": "user", "content": "How?"}
SYSTEM = {"role": "system", "content": "Be brief."}
TOLD = {"role": "tool", "content": "12"}


def calls(name: str) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": [{"function": {"name": name}}], "content": ""}


FORMS: dict[str, dict[str, Any]] = {
    "plain": {"prompt": "How?", "chosen": "Good.", "rejected": "Bad."},
    "turns behind a prompt of turns": {"prompt": [QUESTION], "chosen": [ANSWER], "rejected": [WORSE]},
    "turns behind a text": {"prompt": "How?", "chosen": [ANSWER], "rejected": [WORSE]},
    "whole conversations": {"chosen": [QUESTION, ANSWER], "rejected": [QUESTION, WORSE]},
    "whole conversations beside a prompt": {
        "prompt": "How?",
        "chosen": [QUESTION, ANSWER],
        "rejected": [QUESTION, WORSE],
        "score_chosen": 7.5,
        "score_rejected": 2,
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_the_published_forms_mean_the_same(form: str) -> None:
    chosen, rejected = read_pair(FORMS[form])
    for side, answer in ((chosen, "Good."), (rejected, "Bad.")):
        assert [(turn.role, turn.text) for turn in side.turns] == [("human", "How?"), ("gpt", answer)]


def test_earlier_turns_and_a_system_text_belong_to_the_prompt() -> None:
    before = [SYSTEM, QUESTION, ANSWER, {"role": "user", "content": "More?"}]
    explicit = read_pair({"prompt": before, "chosen": [ANSWER], "rejected": [WORSE]})
    implicit = read_pair({"chosen": [*before, ANSWER], "rejected": [*before, WORSE]})
    assert explicit == implicit
    assert explicit[0].system == "Be brief."
    assert len(explicit[0].turns) == 4
    assert explicit == read_pair({"system": "Be brief.", "prompt": before[1:], "chosen": [ANSWER], "rejected": [WORSE]})


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "How?", "chosen": "Good."}, "rejected is missing or null"),
        ({"prompt": "How?", "rejected": "Bad."}, "chosen is missing or null"),
        ({"prompt": "How?", "chosen": "Good.", "rejected": "  "}, "rejected is empty"),
        ({"prompt": "How?", "chosen": "Good.", "rejected": 3}, "rejected is not text but int"),
        ({"chosen": "Good.", "rejected": "Bad."}, "prompt is missing or null"),
        ({"chosen": [ANSWER], "rejected": [WORSE]}, "turn 1 is from gpt"),
        (
            {"chosen": [QUESTION, ANSWER], "rejected": [{"role": "user", "content": "Why?"}, WORSE]},
            "answer different prompts",
        ),
        ({"prompt": "Why?", "chosen": [QUESTION, ANSWER], "rejected": [WORSE]}, "chosen does not begin with prompt"),
        ({"chosen": [QUESTION, ANSWER], "rejected": [QUESTION, WORSE, QUESTION]}, "must end with an answer"),
        ({"chosen": [SYSTEM, QUESTION, ANSWER], "rejected": [QUESTION, WORSE]}, "answer different prompts"),
        ({"system": "Be long.", "prompt": [SYSTEM, QUESTION], "chosen": "a", "rejected": "b"}, "two different system"),
        ({"prompt": "How?", "chosen": [{**ANSWER, "weight": 0}], "rejected": "b"}, "chosen is context"),
        ({"prompt": "How?", "chosen": "a", "rejected": [{**WORSE, "train": False}]}, "rejected is context"),
        (
            {side: [QUESTION, calls(side), TOLD, answer] for side, answer in (("chosen", ANSWER), ("rejected", WORSE))},
            "answer different prompts",
        ),
    ],
)
def test_what_is_no_pair_is_refused_with_the_reason(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadRowError, match=reason):
        read_pair(row)


def rows_of(tokenizer, source_of, *rows: dict[str, Any], **options: Any) -> PreferenceRows:
    return preference_rows(source_of(*rows), tokenizer, **{"max_length": 64, **options})


def pair(number: int) -> dict[str, Any]:
    return {"prompt": f"Item {number}?", "chosen": "yes " * (number % 4 + 1), "rejected": f"no {number}"}


def test_identical_answers_are_a_bad_row(tokenizer, source_of) -> None:
    same = {"prompt": "How?", "chosen": "Good.", "rejected": "Good."}
    with pytest.raises(DataError, match=r"1 row cannot be used.*\n.*chosen and rejected are the same answer"):
        rows_of(tokenizer, source_of, pair(0), same)
    rows = rows_of(tokenizer, source_of, pair(0), same, pair(2), skip_bad_rows=True)
    assert len(rows) == 2
    assert rows.rows.counts.num_bad_rows == 1


def test_a_pair_is_dropped_or_refused_as_a_whole(tokenizer, source_of) -> None:
    long = {"prompt": "How?", "chosen": "Good.", "rejected": "x" * 300}
    rows = rows_of(tokenizer, source_of, pair(0), long, long_rows="drop")
    assert len(rows) == 1
    counts = rows.rows.counts
    assert (counts.num_answers, counts.num_used_answers, counts.num_dropped_answers) == (4, 2, 2)
    with pytest.raises(DataError, match=r"dataset\.max_length"):
        rows_of(tokenizer, source_of, pair(0), long, long_rows="error")
    cut = rows_of(tokenizer, source_of, long)
    assert len(cut[0].rejected.input_ids) == 64
    alike = {"prompt": "How?", "chosen": "x" * 300 + "a", "rejected": "x" * 300 + "b"}
    assert len(rows_of(tokenizer, source_of, pair(0), alike)) == 1


def test_a_chat_template_renders_both_alike(chat_tokenizer, source_of) -> None:
    rows = rows_of(chat_tokenizer, source_of, FORMS["whole conversations"], chat_template=True)
    chosen, rejected = rows[0], rows[0].rejected
    start = int(chosen.answer_start[0])
    assert start == int(rejected.answer_start[0])
    assert np.array_equal(chosen.input_ids[:start], rejected.input_ids[:start])
    assert "Good." in chat_tokenizer.decode(chosen.input_ids[start:])
    assert "Bad." in chat_tokenizer.decode(rejected.input_ids[start:])


@settings(deadline=None, max_examples=30)
@given(
    batch_size=st.integers(1, 5),
    accumulation=st.integers(1, 3),
    world_size=st.integers(1, 3),
    num_pairs=st.integers(2, 13),
    epoch=st.integers(0, 2),
)
def test_nothing_takes_a_pair_apart(
    tokenizer, source_of, batch_size: int, accumulation: int, world_size: int, num_pairs: int, epoch: int
) -> None:
    rows = rows_of(tokenizer, source_of, *map(pair, range(num_pairs)))
    seen = []
    for rank in range(world_size):
        loader = StepLoader(
            rows=rows,
            collate=Collator(pad_id=0, has_answers=True, has_pairs=True),
            shape=StepShape(batch_size=batch_size, accumulation=accumulation, rank=rank, world_size=world_size),
        )
        for step in loader.one_epoch(epoch):
            for batch in step.micro_batches:
                assert len(batch.row_index) == 2 * batch_size
                chosen, rejected = batch.rows_at(every_second(batch, 0)), batch.rows_at(every_second(batch, 1))
                assert chosen.is_chosen.all()
                assert not rejected.is_chosen.any()
                assert chosen.pair.equal(rejected.pair)
                assert chosen.row_index.equal(rejected.row_index)
                for k, better, worse in zip(
                    chosen.row_index.tolist(), chosen.input_ids, rejected.input_ids, strict=True
                ):
                    if k < 0:
                        continue
                    number = step.row_ids[k]
                    expected = rows[number]
                    assert better[: len(expected.input_ids)].tolist() == expected.input_ids.tolist()
                    assert worse[: len(expected.rejected.input_ids)].tolist() == expected.rejected.input_ids.tolist()
                    seen.append(number)
    assert sorted(seen) == list(range(num_pairs))


def every_second(batch: Any, first: int) -> torch.Tensor:
    return torch.arange(first, len(batch.row_index), 2)


def test_held_out_pairs_stay_pairs(tokenizer, source_of) -> None:
    rows = rows_of(tokenizer, source_of, *map(pair, range(40)))
    parts = split_rows(rows, 0.2, seed=1)
    assert sum(map(len, parts)) == 40
    for part in parts:
        for index in range(len(part)):
            text = tokenizer.decode(part[index].rejected.input_ids)
            assert text.split("?")[0] == tokenizer.decode(part[index].input_ids).split("?")[0]
    assert len({part.fingerprint for part in (rows, *parts)}) == 3


def test_tools_that_no_prompt_shows_are_told(tokenizer, source_of) -> None:
    row = {**FORMS["plain"], "tools": [{"name": "look_up"}]}
    assert preference_rows(source_of(row), tokenizer, max_length=32).rows.notes == ("a-set: columns not used: tools",)


def test_texts_for_a_tokenizer_include_the_reasoning(source_of) -> None:
    row = {"prompt": "How?", "chosen": "<think>well</think>Good.", "rejected": "Bad."}
    assert list(read_pair_texts(source_of(row))) == ["How?", "well", "Good.", "How?", "Bad."]
