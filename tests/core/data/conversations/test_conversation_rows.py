import itertools
import json

import numpy as np
import pytest

from dlm.data.batch import Collator, StepShape
from dlm.data.conversations.bad_rows import write_bad_rows
from dlm.data.conversations.conversation_rows import conversation_rows
from dlm.data.loader import StepLoader
from dlm.data.sources import load_source
from dlm.data.split import split_rows
from dlm.errors import DataError


def answers_of(rows, tokenizer):
    """The trained text of every document of every row."""
    found = []
    for number in range(len(rows)):
        row = rows[number]
        for document in range(row.document_id[-1] + 1):
            found.append(tokenizer.decode(row.input_ids[(row.document_id == document) & row.eligible]))
    return found


def test_each_answer_is_a_row_with_a_clean_history(tokenizer, source_of, chat):
    rows = conversation_rows(source_of(chat("q", "a", "Q", "A")), tokenizer, max_length=64)
    eos = tokenizer.eos_token
    assert [tokenizer.decode(rows[number].input_ids) for number in range(len(rows))] == [f"qa{eos}", f"qa{eos}QA{eos}"]
    assert answers_of(rows, tokenizer) == [f"a{eos}", f"A{eos}"]
    assert rows[1].answer_start.tolist() == [4] * 6
    assert rows[1].answer_length.tolist() == [2] * 6
    assert rows[1].position.tolist() == list(range(6))


def test_last_answer_is_one_row(tokenizer, source_of, chat):
    rows = conversation_rows(source_of(chat("q", "a", "Q", "A")), tokenizer, max_length=64, train_on="last_answer")
    assert answers_of(rows, tokenizer) == [f"A{tokenizer.eos_token}"]


def test_no_end_is_trained_or_visible_on_request(tokenizer, source_of, chat):
    rows = conversation_rows(source_of(chat("q", "a", "Q", "A")), tokenizer, max_length=64, eos_padding="none")
    eos = tokenizer.eos_token
    assert [tokenizer.decode(rows[number].input_ids) for number in range(len(rows))] == ["qa", f"qa{eos}QA"]
    assert answers_of(rows, tokenizer) == ["a", "A"]
    assert rows[1].answer_length.tolist() == [1] * 5


@pytest.mark.parametrize("accumulation", [1, 2])
def test_padding_is_trained_up_to_the_longest_row_of_the_step(tokenizer, source_of, chat, accumulation):
    source = source_of(chat("q", "a"), chat("q", "abcd"), chat("q" * 9, "a"), chat("q", "ab"))
    rows = conversation_rows(source, tokenizer, max_length=64, eos_padding="all")
    eos = tokenizer.eos_token_id
    loader = StepLoader(
        rows=rows,
        collate=Collator(pad_id=99, trained_padding_id=eos),
        shape=StepShape(batch_size=4 // accumulation, accumulation=accumulation),
        shuffle=False,
    )
    batches = next(loader.steps()).micro_batches
    longest = int(rows.lengths.max())
    found = [row for batch in batches for row in zip(*(getattr(batch, n).tolist() for n in NAMES), strict=True)]
    assert len(found) == 4
    for number, (ids, documents, positions, eligible, starts, lengths) in enumerate(found):
        row = rows[number]
        prompt = int(row.answer_start[0])
        assert ids == row.input_ids.tolist() + [eos] * (longest - len(row.input_ids))
        assert documents == [0] * longest
        assert positions == list(range(longest))
        assert eligible == [False] * prompt + [True] * (longest - prompt)
        assert starts == [prompt] * longest
        assert lengths == [longest - prompt] * longest


NAMES = ("input_ids", "document_id", "position", "eligible", "answer_start", "answer_length")


def test_padding_behind_the_first_end_is_not_real(tokenizer, source_of, chat):
    rows = conversation_rows(source_of(chat("q", "a"), chat("q", "abcd")), tokenizer, max_length=64)
    loader = StepLoader(rows=rows, collate=Collator(pad_id=0), shape=StepShape(batch_size=3), shuffle=False)
    (batch,) = next(loader.steps()).micro_batches
    assert batch.document_id.tolist() == [[0] * 3 + [-1] * 3, [0] * 6, [-1] * 6]
    assert batch.eligible.tolist() == [[False, True, True] + [False] * 3, [False] + [True] * 5, [False] * 6]
    assert batch.answer_length.tolist() == [[2] * 3 + [0] * 3, [5] * 6, [0] * 6]


def test_batch_of_fillers_alone_still_has_answer_lengths(tokenizer, source_of, chat):
    rows = conversation_rows(source_of(chat("q", "a")), tokenizer, max_length=64)
    shape = StepShape(batch_size=1, rank=1, world_size=2)
    (batch,) = next(
        StepLoader(rows=rows, collate=Collator(pad_id=0, has_answers=True), shape=shape).steps()
    ).micro_batches
    assert batch.answer_length.tolist() == [[0, 0, 0]]


def test_packed_rows_keep_each_document_for_itself(tokenizer, source_of, chat):
    texts = [("q" * (1 + number % 5), "a" * (1 + number % 7)) for number in range(40)]
    source = source_of(*(chat(*pair) for pair in texts))
    padded = conversation_rows(source, tokenizer, max_length=32)
    packed = conversation_rows(source, tokenizer, max_length=32, pack=True)
    assert len(packed) < len(padded) / 2
    assert packed.lengths.max() <= 32
    assert sorted(answers_of(packed, tokenizer)) == sorted(answers_of(padded, tokenizer))
    assert packed.num_tokens == padded.num_tokens == int(packed.lengths.sum())
    for number in range(len(packed)):
        row = packed[number]
        for document in range(row.document_id[-1] + 1):
            here = row.document_id == document
            assert row.position[here].tolist() == list(range(here.sum()))
            assert set(row.answer_length[here]) == {row.eligible[here].sum()}
            assert set(row.answer_start[here]) == {(~row.eligible[here]).sum()}


def test_trained_padding_and_packing_exclude_each_other(tokenizer, source_of, chat):
    with pytest.raises(DataError, match="packed rows have none"):
        conversation_rows(source_of(chat("q", "a")), tokenizer, max_length=32, pack=True, eos_padding="all")


LONG = ("q", "a" * 30), ("q" * 30, "a"), ("q", "a")


def test_long_answers_are_cut_and_counted(tokenizer, source_of, chat, caplog):
    rows = conversation_rows(source_of(*(chat(*pair) for pair in LONG)), tokenizer, max_length=10)
    assert rows.lengths.tolist() == [10, 3]
    # The end was cut off with the rest of the answer: the model must not learn that it ends here.
    assert tokenizer.eos_token_id not in rows[0].input_ids
    counts = rows.counts
    assert (counts.num_rows, counts.num_used_rows, counts.num_dropped_rows) == (3, 2, 1)
    assert (counts.num_answers, counts.num_used_answers, counts.num_truncated_answers) == (3, 2, 1)
    (unused,) = rows.unused
    assert "leaves no room for its answer" in unused.reason
    assert "a-set, row 1" in caplog.text


def test_long_rows_are_dropped_on_request(tokenizer, source_of, chat):
    source = source_of(*(chat(*pair) for pair in LONG))
    rows = conversation_rows(source, tokenizer, max_length=10, long_rows="drop")
    assert (len(rows), rows.counts.num_dropped_rows) == (1, 2)
    assert [bad.origin.index for bad in rows.unused] == [0, 1]


def test_long_rows_are_refused_on_request(tokenizer, source_of, chat):
    source = source_of(*(chat(*pair) for pair in LONG))
    with pytest.raises(DataError, match=r"2 rows cannot be used:\n.*a-set, row 0: \d+ tokens, but.* is 10"):
        conversation_rows(source, tokenizer, max_length=10, long_rows="error")


@pytest.fixture
def flawed(tmp_path, chat):
    path = tmp_path / "chats.jsonl"
    lines = [json.dumps(chat("q", "a")), "{broken", json.dumps(chat("q")), json.dumps({"conversations": None})]
    path.write_text("\n".join([*lines, "", json.dumps(chat("q", "b", "r"))]))
    return path


def test_bad_rows_are_refused_with_their_lines(tokenizer, flawed):
    with pytest.raises(DataError) as caught:
        conversation_rows(load_source(str(flawed)), tokenizer, max_length=32)
    message = str(caught.value)
    assert message.startswith("3 rows cannot be used:")
    assert f"{flawed}:2: not valid JSON" in message
    assert f"{flawed}:3: no answer" in message
    assert "dataset.on_bad_row: skip" in message


def test_bad_rows_are_passed_over_and_listed_on_request(tokenizer, flawed, tmp_path):
    rows = conversation_rows(load_source(str(flawed)), tokenizer, max_length=32, skip_bad_rows=True)
    assert answers_of(rows, tokenizer) == [f"a{tokenizer.eos_token}", f"b{tokenizer.eos_token}"]
    counts = rows.counts
    assert (counts.num_rows, counts.num_used_rows, counts.num_bad_rows, counts.num_unanswered_turns) == (5, 2, 3, 1)
    assert "5 rows: 2 used, 3 bad, 0 dropped as too long; 2 of 2 answers; 1 last turns had no answer" in rows.summary()
    write_bad_rows(rows.unused, tmp_path / "bad_rows.jsonl")
    listed = [json.loads(line) for line in (tmp_path / "bad_rows.jsonl").read_text().splitlines()]
    assert [(entry["file"], entry["row"], entry["line"]) for entry in listed] == [
        (str(flawed), number, number + 1) for number in (1, 2, 3)
    ]
    assert listed[1]["reason"] == "no answer: there is no turn of gpt (assistant)"


def test_many_bad_rows_are_shown_by_the_first_few(tokenizer, source_of, chat):
    with pytest.raises(DataError, match="and 4 more"):
        conversation_rows(source_of(*(chat("q") for _ in range(9))), tokenizer, max_length=32)


def test_nothing_to_train_on_is_an_error(tokenizer, source_of, chat):
    with pytest.raises(DataError, match=r"no trainable token in the whole data set: 2 rows: 0 used, 1 bad, 1 dropped"):
        conversation_rows(source_of(chat("q"), chat("q" * 50, "a")), tokenizer, max_length=32, skip_bad_rows=True)


def test_text_of_a_megabyte_is_cut_like_any_other(tokenizer, source_of, chat):
    rows = conversation_rows(source_of(chat("q", "x" * 1_000_000)), tokenizer, max_length=32)
    assert rows.lengths.tolist() == [32]


def test_fingerprint_changes_with_text_spans_and_packing(tokenizer, source_of, chat):
    def fingerprint(*texts, **options):
        return conversation_rows(source_of(chat(*texts)), tokenizer, max_length=32, **options).fingerprint

    assert fingerprint("q", "a") == fingerprint("q", "a")
    # The same ids with the answer starting elsewhere.
    different = {
        fingerprint("q", "ab"),
        fingerprint("qa", "b"),
        fingerprint("q", "ac"),
        fingerprint("q", "ab", pack=True),
    }
    assert len(different) == 4


@pytest.mark.parametrize("pack", [False, True])
def test_answers_of_one_conversation_stay_on_one_side(tokenizer, source_of, chat, pack):
    source = source_of(*(chat("q", f"{n} first", "r", f"{n} second") for n in range(60)))
    rows = conversation_rows(source, tokenizer, max_length=64, pack=pack)
    assert rows.num_documents == 60
    training, evaluation = split_rows(rows, 0.2, seed=1)
    sides = [{answer.split()[0] for answer in answers_of(side, tokenizer)} for side in (training, evaluation)]
    assert sides[0] | sides[1] == {str(number) for number in range(60)}
    assert not sides[0] & sides[1]
    assert 8 <= len(sides[1]) <= 12


def test_chosen_rows_keep_their_documents(tokenizer, source_of, chat):
    source = source_of(*(chat("q" * 5, str(number)) for number in range(20)))
    rows = conversation_rows(source, tokenizer, max_length=32, pack=True)
    chosen = rows.select(np.array([2, 0]))
    assert chosen[0].input_ids.tolist() == rows[2].input_ids.tolist()
    assert chosen[1].input_ids.tolist() == rows[0].input_ids.tolist()


def test_step_of_packed_rows_hides_documents_from_each_other(tokenizer, source_of, chat):
    source = source_of(*(chat("q", str(number)) for number in range(20)))
    rows = conversation_rows(source, tokenizer, max_length=32, pack=True)
    loader = StepLoader(
        rows=rows, collate=Collator(pad_id=0, isolate_documents=True), shape=StepShape(batch_size=2), num_workers=1
    )
    (step,) = itertools.islice(loader.steps(), 1)
    assert step.micro_batches[0].isolate_documents
    assert step.micro_batches[0].document_id.max() > 1


def test_numeric_columns_of_all_rows_reach_the_batch(tokenizer, source_of, chat):
    extra = [
        {"score": 1.5, "number": 3, "flag": True, "name": "x", "rare": 1, "huge": 10**400, "vast": 1e300},
        {"score": -2, "number": 4, "flag": False, "name": "y", "huge": 1, "vast": 1},
    ]
    source = source_of(*({**chat("q", "a"), **columns} for columns in extra))
    rows = conversation_rows(source, tokenizer, max_length=32)
    assert rows.column_names == ("number", "score")
    collate = Collator(pad_id=0, column_names=rows.column_names)
    loader = StepLoader(rows=rows, collate=collate, shape=StepShape(batch_size=3), shuffle=False)
    (batch,) = next(loader.steps()).micro_batches
    assert {name: column.tolist() for name, column in batch.columns.items()} == {
        "number": [3.0, 4.0, 0.0],
        "score": [1.5, -2.0, 0.0],
    }
    assert conversation_rows(source, tokenizer, max_length=32, pack=True).column_names == ()
