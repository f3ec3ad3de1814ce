import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlm.data.packing import text_rows
from dlm.errors import DataError

documents_of_ids = st.lists(st.lists(st.integers(0, 1000), min_size=1, max_size=20), min_size=1, max_size=12)


@settings(deadline=None, max_examples=60)
@given(documents=documents_of_ids, max_length=st.integers(1, 17), pack=st.booleans())
def test_rows_put_end_to_end_are_the_documents_put_end_to_end(make_store, documents, max_length, pack):
    rows = text_rows(make_store(*documents), max_length=max_length, pack=pack)
    ids = [id_ for number in range(len(rows)) for id_ in rows[number].input_ids.tolist()]
    assert ids == [id_ for document in documents for id_ in document]
    assert rows.num_tokens == len(ids)
    assert [len(rows[number].input_ids) for number in range(len(rows))] == rows.lengths.tolist()


@settings(deadline=None, max_examples=60)
@given(documents=documents_of_ids, max_length=st.integers(1, 17))
def test_packed_rows_are_full_except_the_last(make_store, documents, max_length):
    lengths = text_rows(make_store(*documents), max_length=max_length).lengths
    assert (lengths[:-1] == max_length).all()
    assert 1 <= lengths[-1] <= max_length


@settings(deadline=None, max_examples=60)
@given(documents=documents_of_ids, max_length=st.integers(1, 17))
def test_unpacked_rows_hold_one_document_each(make_store, documents, max_length):
    rows = text_rows(make_store(*documents), max_length=max_length, pack=False)
    assert len(rows) == sum(-(-len(document) // max_length) for document in documents)
    assert all((rows[number].document_id == 0).all() for number in range(len(rows)))


@settings(deadline=None, max_examples=60)
@given(documents=documents_of_ids, max_length=st.integers(1, 17), pack=st.booleans())
def test_document_ids_and_positions_follow_a_walk_over_the_tokens(make_store, documents, max_length, pack):
    # Tokens know their document here, so that the expected numbers come from them alone.
    labelled = [[number] * len(document) for number, document in enumerate(documents)]
    rows = text_rows(make_store(*labelled), max_length=max_length, pack=pack)
    for number in range(len(rows)):
        row, seen = rows[number], []
        for owner, document_id, position in zip(row.input_ids, row.document_id, row.position, strict=True):
            if owner not in seen:
                seen.append(owner)
                expected_position = 0
            assert (document_id, position) == (len(seen) - 1, expected_position)
            expected_position += 1
        assert row.eligible.all()
        assert not row.answer_start.any()
        assert row.answer_length is None


def test_rows_made_of_chosen_documents_hold_those_alone(make_store):
    rows = text_rows(make_store([1, 1, 1], [2, 2], [3, 3, 3, 3]), max_length=4).select_documents(np.array([2, 0]))
    assert [rows[number].input_ids.tolist() for number in range(len(rows))] == [[3, 3, 3, 3], [1, 1, 1]]
    assert rows.num_documents == 2


def test_chosen_rows_keep_their_content(make_store):
    rows = text_rows(make_store(list(range(10))), max_length=3).select(np.array([3, 1]))
    assert [rows[number].input_ids.tolist() for number in range(len(rows))] == [[9], [3, 4, 5]]


def test_ids_in_a_file_give_the_same_rows_as_ids_in_memory(make_store):
    documents = [list(range(number, number + 7)) for number in range(50)]
    in_memory = text_rows(make_store(*documents), max_length=16)
    in_file = text_rows(make_store(*documents, shard_tokens=16), max_length=16)
    assert len(in_file.store._places) == 17
    assert in_file.fingerprint == in_memory.fingerprint
    assert (in_file[3].input_ids == in_memory[3].input_ids).all()


def test_file_of_ids_lives_as_long_as_its_store_and_survives_pickling(make_store):
    store = make_store(list(range(1000)), shard_tokens=16)
    path = store._places[0].ids
    copied = pickle.loads(pickle.dumps(store))
    assert (copied.span(0, 1000) == np.arange(1000)).all()
    assert len(pickle.dumps(store)) < 1000
    del copied
    assert path.exists()
    del store
    assert not path.exists()


@pytest.mark.parametrize(
    ("documents", "max_length", "pack"),
    [([[1, 2, 3], [4, 5]], 2, True), ([[1, 2], [3, 4, 5]], 3, True), ([[1, 2, 3], [4, 5]], 3, False)],
)
def test_fingerprint_changes_with_documents_length_and_packing(make_store, documents, max_length, pack):
    reference = text_rows(make_store([1, 2, 3], [4, 5]), max_length=3)
    assert reference.fingerprint == text_rows(make_store([1, 2, 3], [4, 5]), max_length=3).fingerprint
    assert text_rows(make_store(*documents), max_length=max_length, pack=pack).fingerprint != reference.fingerprint


def test_fingerprint_changes_with_the_choice_of_rows(make_store):
    rows = text_rows(make_store(list(range(10))), max_length=3)
    assert rows.select(np.array([0, 1])).fingerprint != rows.select(np.array([1, 0])).fingerprint


def test_no_documents_is_an_error(make_store):
    with pytest.raises(DataError, match="no documents"):
        text_rows(make_store(), max_length=4)


def test_length_below_one_is_an_error(make_store):
    with pytest.raises(DataError, match=r"dataset\.max_length is 0"):
        text_rows(make_store([1]), max_length=0)


def test_summary_names_documents_tokens_and_rows(make_store):
    summary = text_rows(make_store([1, 2, 3], [4, 5]), max_length=2).summary()
    assert summary == "2 documents, 5 tokens, 3 rows of at most 2 (packed)"
