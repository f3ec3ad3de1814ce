"""Rows that come as ids, with the step at which each was written: taken as they are, or refused with the reason."""

import numpy as np
import pytest

from dlm.data.batch import Collator
from dlm.data.conversations.conversation_rows import conversation_rows
from dlm.errors import DataError

ROW = {"input_ids": [5, 6, 7, 8], "prompt_length": 1, "step_map": [2, 0, 1], "prompt": "x", "text": "y", "score": 2}


def test_ids_win_over_texts_and_keep_their_steps(tokenizer, source_of):
    rows = conversation_rows(source_of(ROW, {**ROW, "input_ids": [9, 9, 9, 4]}), tokenizer, max_length=16)
    assert rows[0].input_ids.tolist() == [5, 6, 7, 8]
    assert rows[0].eligible.tolist() == [False, True, True, True]
    assert rows[0].committed_step.tolist() == [-1, 2, 0, 1]
    assert rows[0].columns == {"prompt_length": 1.0, "score": 2.0}
    collate = Collator(pad_id=0, has_steps=True, trained_padding_id=3)
    batch = collate([rows[0], None], [0, -1], step_length=6)
    assert batch.committed_step.tolist() == [[-1, 2, 0, 1, -1, -1], [-1] * 6]


def test_long_rows_are_cut_with_their_steps_or_dropped(tokenizer, source_of):
    cut = conversation_rows(source_of(ROW), tokenizer, max_length=3)
    assert cut[0].committed_step.tolist() == [-1, 2, 0]
    assert cut.counts.num_truncated_answers == 1
    kept = conversation_rows(
        source_of(ROW, {**ROW, "input_ids": [5] * 9, "step_map": [0] * 8}), tokenizer, max_length=4
    )
    assert len(kept) == 2
    dropped = conversation_rows(
        source_of(ROW, {**ROW, "input_ids": [5] * 9, "step_map": [0] * 8}), tokenizer, max_length=4, long_rows="drop"
    )
    assert (len(dropped), dropped.counts.num_dropped_rows, dropped.counts.num_dropped_answers) == (1, 1, 1)


def test_steps_are_of_use_where_every_row_has_them(tokenizer, source_of):
    without = {name: value for name, value in ROW.items() if name != "step_map"}
    rows = conversation_rows(source_of(ROW, without), tokenizer, max_length=16)
    assert rows[0].committed_step is None
    other = conversation_rows(source_of(ROW, ROW), tokenizer, max_length=16)
    changed = conversation_rows(source_of(ROW, {**ROW, "step_map": [2, 1, 0]}), tokenizer, max_length=16)
    assert other.fingerprint != changed.fingerprint


def test_packed_rows_keep_the_steps_of_each(tokenizer, source_of):
    rows = conversation_rows(source_of(ROW, {**ROW, "step_map": [7, 8, 9]}), tokenizer, max_length=8, pack=True)
    assert sorted(np.split(rows[0].committed_step, 2), key=max)[1].tolist() == [-1, 7, 8, 9]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"step_map": [0, 1]}, "step_map has 2 steps for an answer of 3 ids"),
        ({"step_map": [0, 1, -2]}, "step_map is not a list of steps"),
        ({"step_map": [0, 1, 0.5]}, "step_map is not a list of steps"),
        ({"prompt_length": 4}, "prompt_length is 4; it must be a number from 0 to 3"),
        ({"prompt_length": True}, "prompt_length is True"),
        ({"prompt_length": "1"}, "prompt_length is 1;"),
        ({"input_ids": [1, "2"]}, "input_ids is not a list of token ids"),
        ({"input_ids": [5, 6, -1, 2]}, "input_ids is not a list of token ids"),
        ({"input_ids": [5, 6, 10**6, 2]}, "input_ids holds 1000000; the tokenizer has ids below"),
    ],
)
def test_what_cannot_be_is_refused_with_the_row(tokenizer, source_of, change, reason):
    with pytest.raises(DataError, match=reason):
        conversation_rows(source_of(ROW, {**ROW, **change}), tokenizer, max_length=16)
