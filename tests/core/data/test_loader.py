import contextlib
import itertools
import multiprocessing
import os
import select
import signal
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlm.data.batch import Collator, StepShape
from dlm.data.loader import ReadAhead, StepLoader, read_ahead, worker_failure
from dlm.data.order import epoch_order
from dlm.data.packing import text_rows
from dlm.errors import DataError

COLLATE = Collator(pad_id=999)


def rows_by_index(step_batches):
    """Which row stands at each index of the step, read off the tensors of all ranks."""
    found = {}
    for step_batch in step_batches:
        for batch in step_batch.micro_batches:
            for index, ids in zip(batch.row_index.tolist(), batch.input_ids.tolist(), strict=True):
                if index >= 0:
                    assert index not in found
                    found[index] = ids
                else:
                    assert set(ids) == {999}
    return found


def steps_of(rows, shape, num_steps, **options):
    return list(itertools.islice(StepLoader(rows=rows, collate=COLLATE, shape=shape, **options).steps(), num_steps))


@settings(deadline=None, max_examples=40)
@given(
    num_rows=st.integers(1, 40),
    split=st.sampled_from([(12, 1, 1), (6, 2, 1), (1, 12, 1), (3, 2, 2), (2, 2, 3), (1, 4, 3), (4, 1, 3)]),
)
def test_step_holds_the_same_rows_however_it_is_shared_out(make_rows, num_rows, split):
    batch_size, accumulation, world_size = split
    rows = make_rows(num_rows)
    whole = steps_of(rows, StepShape(batch_size=12), 4)
    shapes = [
        StepShape(batch_size=batch_size, accumulation=accumulation, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    by_rank = [steps_of(rows, shape, 4) for shape in shapes]
    for number, reference in enumerate(whole):
        parts = [steps[number] for steps in by_rank]
        assert rows_by_index(parts) == rows_by_index([reference])
        assert {part.row_ids for part in parts} == {reference.row_ids}
        assert len({len(part.micro_batches) for part in parts}) == 1
        # A micro-step survives only if some rank has a real row in it.
        for micro_step in range(len(parts[0].micro_batches)):
            assert any((part.micro_batches[micro_step].row_index >= 0).any() for part in parts)


def test_rows_come_in_the_order_of_the_epoch(make_rows):
    steps = steps_of(make_rows(23), StepShape(batch_size=2, accumulation=2), 12, seed=5)
    for epoch in (0, 1):
        seen = [number for step in steps[6 * epoch : 6 * epoch + 6] for number in step.row_ids]
        assert seen == epoch_order(num_rows=23, seed=5, epoch=epoch).tolist()
    assert [(step.epoch, step.epoch_batch) for step in steps] == [(e, b) for e in range(2) for b in range(6)]
    assert [step.num_rows for step in steps[:6]] == [4, 4, 4, 4, 4, 3]


def test_row_index_is_the_place_in_the_step(make_rows):
    (step,) = steps_of(make_rows(20), StepShape(batch_size=2, accumulation=2, rank=1, world_size=2), 1)
    assert [batch.row_index.tolist() for batch in step.micro_batches] == [[2, 3], [6, 7]]
    assert [batch.input_ids[:, 0].tolist() for batch in step.micro_batches] == [
        [step.row_ids[2], step.row_ids[3]],
        [step.row_ids[6], step.row_ids[7]],
    ]


class CountedRows:
    """Real rows that note which of them are read."""

    def __init__(self, rows):
        self._rows = rows
        self.read = []

    def __getattr__(self, name):
        return getattr(self._rows, name)

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, number):
        self.read.append(number)
        return self._rows[number]


def test_four_ranks_read_each_row_once(make_rows):
    shapes = [StepShape(batch_size=2, accumulation=2, rank=rank, world_size=4) for rank in range(4)]
    read = []
    for shape in shapes:
        rows = CountedRows(make_rows(67))
        list(StepLoader(rows=rows, collate=COLLATE, shape=shape).one_epoch(epoch=2))
        read.append(rows.read)
    assert sorted(itertools.chain(*read)) == list(range(67))
    assert min(map(len, read)) >= 67 // 4 - 2


@settings(deadline=None, max_examples=40)
@given(num_rows=st.integers(1, 40), position=st.integers(0, 30), batch_size=st.integers(1, 5))
def test_resumed_steps_equal_uninterrupted_ones_and_read_nothing_else(make_rows, num_rows, position, batch_size):
    shape = StepShape(batch_size=batch_size, accumulation=2)
    rows = CountedRows(make_rows(num_rows))
    loader = StepLoader(rows=rows, collate=COLLATE, shape=shape, seed=1)
    expected = list(itertools.islice(loader.steps(), position, position + 3))
    rows.read.clear()
    epoch, epoch_batch = divmod(position, loader.steps_per_epoch)
    resumed = list(itertools.islice(loader.steps(epoch, epoch_batch), 3))
    assert [(step.epoch, step.epoch_batch, step.row_ids) for step in resumed] == [
        (step.epoch, step.epoch_batch, step.row_ids) for step in expected
    ]
    assert rows_by_index([resumed[0]]) == rows_by_index([expected[0]])
    assert sorted(rows.read) == sorted(number for step in resumed for number in step.row_ids)


class ManyRows:
    """Ten million rows that cost nothing."""

    def __init__(self, row):
        self.row = row
        self.lengths = np.broadcast_to(np.int64(len(row.input_ids)), (10_000_000,))
        self.read = []

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, number):
        self.read.append(number)
        return self.row


def test_resuming_at_step_a_million_takes_no_time_and_reads_one_step(make_rows):
    rows = ManyRows(make_rows(1)[0])
    loader = StepLoader(rows=rows, collate=COLLATE, shape=StepShape(batch_size=8))
    started = time.process_time()
    step = next(loader.steps(0, 1_000_000))
    assert time.process_time() - started < 1
    assert step.epoch_batch == 1_000_000
    assert sorted(rows.read) == sorted(step.row_ids)


def test_end_of_an_epoch_is_the_start_of_the_next(make_rows):
    loader = StepLoader(rows=make_rows(10), collate=COLLATE, shape=StepShape(batch_size=4))
    assert loader.steps_per_epoch == 3
    at_end, at_start = next(loader.steps(0, 3)), next(loader.steps(1, 0))
    assert (at_end.epoch, at_end.epoch_batch, at_end.row_ids) == (1, 0, at_start.row_ids)


def test_one_epoch_without_shuffling_is_the_rows_in_their_order(make_rows):
    loader = StepLoader(rows=make_rows(7), collate=COLLATE, shape=StepShape(batch_size=3), shuffle=False)
    assert [step.row_ids for step in loader.one_epoch()] == [(0, 1, 2), (3, 4, 5), (6,)]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_worker_processes_change_nothing(make_rows, num_workers):
    rows, shape = make_rows(11), StepShape(batch_size=2, accumulation=2)
    alone = steps_of(rows, shape, 5, seed=3)
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    with_workers = steps_of(rows, shape, 5, seed=3, num_workers=num_workers)
    assert torch.equal(before, torch.random.get_rng_state())
    for one, other in zip(alone, with_workers, strict=True):
        assert one.row_ids == other.row_ids
        for batch, other_batch in zip(one.micro_batches, other.micro_batches, strict=True):
            assert torch.equal(batch.input_ids, other_batch.input_ids)
            assert torch.equal(batch.row_index, other_batch.row_index)


class DeadlyRows(CountedRows):
    def __getitem__(self, number):
        os._exit(3)


def test_dead_worker_is_named_and_the_way_out_too(make_rows):
    steps = StepLoader(
        rows=DeadlyRows(make_rows(8)), collate=COLLATE, shape=StepShape(batch_size=2), num_workers=1
    ).steps()
    with pytest.raises((DataError, RuntimeError)) as caught:
        next(steps)
    # torch's signal handler may raise anywhere in the main thread, so a training loop translates as well.
    error = caught.value if isinstance(caught.value, DataError) else worker_failure(caught.value)
    assert isinstance(error, DataError)
    assert "pid" in str(error)
    assert "num_workers: 0" in str(error)


class LargeItems(torch.utils.data.Dataset):
    """Of each item, more bytes than a pipe holds."""

    def __getitem__(self, index):
        return np.full(1 << 18, index)


def read_until_killed(num_workers, held):
    items = read_ahead(LargeItems(), itertools.count(), num_workers)
    next(items)
    for worker in multiprocessing.active_children():
        os.write(held, f"{worker.pid}\n".encode())
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_do_not_outlive_a_run_that_is_killed(num_workers):
    read, held = os.pipe()
    run = multiprocessing.get_context("fork").Process(target=read_until_killed, args=(num_workers, held))
    run.start()
    os.close(held)
    run.join()
    workers = [int(pid) for pid in os.read(read, 1000).split()]
    try:
        assert len(workers) == num_workers
        # The end of the file: nobody is left who could write to it. Patience for what hangs.
        assert select.select([read], [], [], 60)[0], "workers outlive the process that started them"
    finally:
        os.close(read)
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_other_errors_are_not_taken_for_a_dead_worker():
    assert worker_failure(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
    assert worker_failure(ValueError("DataLoader worker (pid 1) is killed")) is None


def test_position_outside_the_epoch_is_an_error(make_rows):
    loader = StepLoader(rows=make_rows(10), collate=COLLATE, shape=StepShape(batch_size=4))
    with pytest.raises(DataError, match="step 4 of epoch 0 does not exist"):
        loader.steps(0, 4)


def test_rows_shorter_than_the_longest_are_padded(make_store):
    rows = text_rows(make_store([1, 2, 3], [4]), max_length=3, pack=False)
    (step,) = steps_of(rows, StepShape(batch_size=2), 1, shuffle=False)
    (batch,) = step.micro_batches
    assert batch.input_ids.tolist() == [[1, 2, 3], [4, 999, 999]]
    assert batch.document_id.tolist() == [[0, 0, 0], [0, -1, -1]]
    assert batch.position.tolist() == [[0, 1, 2], [0, 0, 0]]
    assert batch.eligible.tolist() == [[True, True, True], [True, False, False]]
    assert batch.answer_length is None


def test_filler_rows_hold_only_padding(make_rows):
    steps = steps_of(make_rows(5), StepShape(batch_size=2, rank=1, world_size=2), 2)
    (batch,) = steps[1].micro_batches
    assert batch.row_index.tolist() == [-1, -1]
    assert batch.input_ids.tolist() == [[999] * 4] * 2
    assert (batch.document_id == -1).all()
    assert not batch.eligible.any()


def test_batch_can_be_cut_and_moved(make_rows):
    (step,) = steps_of(make_rows(4), StepShape(batch_size=2), 1)
    batch = step.micro_batches[0].truncated(3).to(torch.device("meta"))
    assert batch.input_ids.shape == batch.eligible.shape == (2, 3)
    assert batch.row_index.shape == (2,)
    assert {batch.input_ids.device.type, batch.row_index.device.type} == {"meta"}
    assert batch.isolate_documents is False


def test_steps_that_were_looked_at_are_taken_all_the_same(make_rows):
    rows = make_rows(9)
    expected = [step.row_ids for step in steps_of(rows, StepShape(batch_size=4), 5)]
    ahead, taken = ReadAhead(StepLoader(rows=rows, collate=COLLATE, shape=StepShape(batch_size=4)).steps()), []
    for number in range(5):
        if number % 2:
            seen = ahead.peek()
            assert ahead.peek() is seen
        taken.append(next(ahead))
        assert number % 2 == 0 or taken[-1] is seen
    assert [step.row_ids for step in taken] == expected


def test_what_fails_when_it_is_read_ahead_fails_when_it_is_taken(make_rows):
    (step,) = steps_of(make_rows(4), StepShape(batch_size=4), 1)

    def broken():
        yield step
        raise DataError("an unreadable row")

    ahead = ReadAhead(broken())
    assert next(ahead) is step
    assert ahead.peek() is None
    with pytest.raises(DataError, match="an unreadable row"):
        next(ahead)
