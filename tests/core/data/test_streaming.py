import itertools
import json
import threading
from concurrent.futures import ThreadPoolExecutor

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
from dlm.data.tokenization import encode_texts
from dlm.data.tokenizer_training import train_tokenizer
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
@given(
    num_steps=st.integers(1, 40),
    max_length=st.sampled_from([5, 16, 300]),
    pack=st.booleans(),
    shuffle_buffer=st.sampled_from([1, 2, 10, 1000]),
)
@pytest.mark.parametrize("source", [SOURCE, streamed_source()], ids=["memory", "datasets"])
def test_resumed_stream_equals_an_uninterrupted_one(tokenizer, source, num_steps, max_length, pack, shuffle_buffer):
    options = {"source": source, "max_length": max_length, "pack": pack, "shuffle_buffer": shuffle_buffer}
    loader = loader_of(tokenizer, **options)
    steps = list(itertools.islice(loader.steps(), num_steps + 4))
    last = steps[num_steps - 1]
    # Through JSON, as a checkpoint stores it, and from an object that has read nothing.
    state = json.loads(json.dumps(last.data_state))
    again = loader_of(tokenizer, **options)
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


def in_threads(tokenizer, world_size, num_steps=None, **options):
    """The steps of each rank, which exchange what they tokenize."""
    barrier, given_ = threading.Barrier(world_size, timeout=60), [None] * world_size

    def steps_of(rank):
        def exchange(own):
            given_[rank] = own
            barrier.wait()
            every = list(given_)
            barrier.wait()
            return every

        shape = StepShape(batch_size=6 // world_size, rank=rank, world_size=world_size)
        loader = loader_of(tokenizer, shape=shape, exchange=exchange, **options)
        return list(itertools.islice(loader.steps(), num_steps))

    with ThreadPoolExecutor(world_size) as pool:
        return [future.result() for future in [pool.submit(steps_of, rank) for rank in range(world_size)]]


@pytest.mark.parametrize("shuffle_buffer", [1, 9])
@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_the_rows_of_each_step(tokenizer, world_size, shuffle_buffer):
    options = {"shuffle_buffer": shuffle_buffer}
    whole = list(itertools.islice(loader_of(tokenizer, shape=StepShape(batch_size=6), **options).steps(), 30))
    assert whole[-1].epoch > 0
    ranks = in_threads(tokenizer, world_size, 30, **options)
    for number, step in enumerate(whole):
        parts = [steps[number] for steps in ranks]
        assert all((part.row_ids, part.data_state) == (step.row_ids, step.data_state) for part in parts)
        found = {}
        for part in parts:
            indices = [index for index in part.micro_batches[0].row_index.tolist() if index >= 0]
            found.update(zip(indices, contents(part), strict=True))
        assert [found[index] for index in range(step.num_rows)] == contents(step)


def test_each_rank_tokenizes_its_share_once(tokenizer, monkeypatch):
    tokenized = []

    def noted(texts, tokenizer):
        tokenized.extend(texts)
        return encode_texts(texts, tokenizer)

    monkeypatch.setattr(streaming, "encode_texts", noted)
    steps = in_threads(tokenizer, 2, 6)[0]
    assert steps[-1].epoch == 0
    assert len(tokenized) == len(set(tokenized)) >= 14


@pytest.fixture(scope="module")
def masking():
    """A tokenizer whose mask token is an ordinary letter, which no text may have."""
    tokenizer = train_tokenizer(["a b"], vocab_size=258)
    tokenizer._mask_token = None
    tokenizer.mask_token = "z"
    return tokenizer


HAS_MASK = MemorySource("a-set", tuple({"text": text} for text in [*TEXTS[:10], "a z"]))


def test_what_one_rank_cannot_tokenize_ends_all(masking):
    with pytest.raises(DataError, match="writes the mask token 'z' for ordinary text"):
        in_threads(masking, 2, source=HAS_MASK)


def test_workers_change_nothing_and_say_what_is_wrong(tokenizer):
    def steps_of(num_workers):
        return list(itertools.islice(loader_of(tokenizer, num_workers=num_workers, shuffle_buffer=5).steps(), 25))

    alone = steps_of(0)
    assert alone[-1].epoch > 0
    for one, other in zip(alone, steps_of(2), strict=True):
        assert (one.row_ids, one.data_state) == (other.row_ids, other.data_state)
        assert contents(one) == contents(other)


def test_what_a_worker_cannot_tokenize_is_said_in_a_line(masking):
    with pytest.raises(DataError) as problem:
        list(itertools.islice(loader_of(masking, source=HAS_MASK, num_workers=1).steps(), 30))
    assert str(problem.value).startswith("the tokenizer writes the mask token 'z'")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_what_cannot_be_read_is_said_when_its_turn_comes(tokenizer, num_workers):
    good = TEXTS[:14]  # two groups
    source = MemorySource("a-set", tuple({"text": text} for text in [*good, "\ud800", *good]))
    steps, found = loader_of(tokenizer, source=source, num_workers=num_workers, max_length=8).steps(), []
    with pytest.raises(DataError, match="a-set, row 14: 'text' is not valid Unicode"):
        found.extend(contents(step) for step in steps)
    whole = loader_of(tokenizer, source=MemorySource("a-set", source.rows[:14]), max_length=8).steps()
    assert len(found) > 2
    assert found == [contents(step) for step in itertools.islice(whole, len(found))]


@pytest.mark.parametrize("shuffle_buffer", [2, 10, 1000])
def test_rows_are_shuffled_within_windows_anew_in_each_epoch(tokenizer, shuffle_buffer):
    loader = loader_of(tokenizer, shuffle_buffer=shuffle_buffer)
    epochs = {}
    for step in itertools.takewhile(lambda step: step.epoch < 3, loader.steps()):
        epochs.setdefault(step.epoch, []).extend(zip(step.row_ids, contents(step), strict=True))
    in_order = [
        row
        for step in itertools.takewhile(lambda s: s.epoch == 0, loader_of(tokenizer).steps())
        for row in contents(step)
    ]
    for taken in epochs.values():
        assert [content for _, content in sorted(taken, key=lambda each: each[0])] == in_order
        numbers = [number for number, _ in taken]
        for start in range(0, len(numbers), shuffle_buffer):
            window = numbers[start : start + shuffle_buffer]
            assert sorted(window) == list(range(start, start + len(window)))
        assert numbers != sorted(numbers)
    assert len({tuple(number for number, _ in taken) for taken in epochs.values()}) == 3


def test_windows_have_orders_of_their_own(tokenizer):
    loader = loader_of(tokenizer, max_length=5, shuffle_buffer=6, shape=StepShape(batch_size=6))
    steps = itertools.takewhile(lambda step: step.epoch == 0 and step.num_rows == 6, loader.steps())
    orders = [tuple(number % 6 for number in step.row_ids) for step in steps]
    assert len(set(orders)) > len(orders) / 2 > 10


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
