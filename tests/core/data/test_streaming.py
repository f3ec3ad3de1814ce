import itertools
import json

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlm.data import streaming
from dlm.data.batch import Collator, StepShape
from dlm.data.hub import StreamedSource
from dlm.data.packing import text_rows
from dlm.data.sources import MemorySource
from dlm.data.streaming import StreamLoader
from dlm.errors import DataError

TEXTS = [f"document {number} " * (number % 7 + 1) for number in range(40)]
SOURCE = MemorySource("a-set", tuple({"text": text} for text in TEXTS))


@pytest.fixture(autouse=True)
def _small_groups(monkeypatch):
    monkeypatch.setattr(streaming, "_DOCUMENTS_PER_GROUP", 7)


def loader_of(tokenizer, *, source=SOURCE, shape=None, max_length=16, **options):
    return StreamLoader(
        source=source,
        tokenizer=tokenizer,
        text_column="text",
        max_length=max_length,
        collate=Collator(pad_id=0),
        shape=shape or StepShape(batch_size=3, accumulation=2),
        **options,
    )


def contents(step):
    """Real rows of a step as lists of (id, document, position), by index in the step."""
    found = {}
    for batch in step.micro_batches:
        for index, ids, documents, positions in zip(
            batch.row_index.tolist(),
            batch.input_ids.tolist(),
            batch.document_id.tolist(),
            batch.position.tolist(),
            strict=True,
        ):
            if index >= 0:
                found[index] = [cell for cell in zip(ids, documents, positions, strict=True) if cell[1] >= 0]
    return [found[index] for index in sorted(found)]


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("max_length", [5, 16, 200])
def test_stream_gives_the_rows_of_the_whole_set(store_documents, tokenizer, pack, max_length):
    rows = text_rows(store_documents(TEXTS, tokenizer), max_length=max_length, pack=pack)
    expected = [
        list(zip(row.input_ids.tolist(), row.document_id.tolist(), row.position.tolist(), strict=True))
        for row in (rows[number] for number in range(len(rows)))
    ]
    loader = loader_of(tokenizer, max_length=max_length, pack=pack)
    steps = itertools.takewhile(lambda step: step.epoch == 0, loader.steps())
    found = [row for step in steps for row in contents(step)]
    assert found == expected


def streamed_source():
    return StreamedSource(
        "a-set", datasets.Dataset.from_list(list(SOURCE.rows)).to_iterable_dataset(num_shards=3), "abc"
    )


@settings(deadline=None, max_examples=25)
@given(num_steps=st.integers(1, 40), max_length=st.sampled_from([5, 16, 300]), pack=st.booleans())
@pytest.mark.parametrize("source", [SOURCE, streamed_source()], ids=["memory", "datasets"])
def test_resumed_stream_equals_an_uninterrupted_one(tokenizer, source, num_steps, max_length, pack):
    loader = loader_of(tokenizer, source=source, max_length=max_length, pack=pack)
    steps = list(itertools.islice(loader.steps(), num_steps + 4))
    last = steps[num_steps - 1]
    # Through JSON, as a checkpoint stores it, and from an object that has read nothing.
    state = json.loads(json.dumps(last.data_state))
    again = loader_of(tokenizer, source=source, max_length=max_length, pack=pack)
    resumed = list(itertools.islice(again.steps(last.epoch, last.epoch_batch + 1, data_state=state), 2))
    # And once more from where the resumed one stopped.
    state, last = json.loads(json.dumps(resumed[-1].data_state)), resumed[-1]
    resumed += itertools.islice(again.steps(last.epoch, last.epoch_batch + 1, data_state=state), 2)
    for one, other in zip(steps[num_steps:], resumed, strict=True):
        assert (one.epoch, one.epoch_batch, one.row_ids) == (other.epoch, other.epoch_batch, other.row_ids)
        assert contents(one) == contents(other)


def test_state_stays_small(tokenizer):
    states = [step.data_state for step in itertools.islice(loader_of(tokenizer).steps(), 30)]
    assert max(len(json.dumps(state)) for state in states) < 500


def test_ranks_share_the_rows_of_a_step(tokenizer):
    (whole,) = itertools.islice(loader_of(tokenizer, shape=StepShape(batch_size=6)).steps(), 1)
    found = {}
    for rank in range(2):
        shape = StepShape(batch_size=3, rank=rank, world_size=2)
        (part,) = itertools.islice(loader_of(tokenizer, shape=shape).steps(), 1)
        assert part.row_ids == whole.row_ids
        found.update(zip(part.micro_batches[0].row_index.tolist(), contents(part), strict=True))
    assert [found[index] for index in range(6)] == contents(whole)


def test_rows_passed_over_are_reported(tokenizer, caplog):
    source = MemorySource("a-set", ({"text": "a"}, {"text": None}))
    list(itertools.islice(loader_of(tokenizer, source=source).steps(), 2))
    assert "a-set, epoch 0: 1 texts in 2 rows; passed over: 1 null" in caplog.messages[0]


def test_stream_without_text_is_an_error(tokenizer):
    source = MemorySource("a-set", ({"text": None},))
    with pytest.raises(DataError, match="no text in column 'text'"):
        next(loader_of(tokenizer, source=source).steps())


def test_position_without_a_state_is_an_error(tokenizer):
    with pytest.raises(DataError, match="cannot be resumed at step 3"):
        loader_of(tokenizer).steps(0, 3)
