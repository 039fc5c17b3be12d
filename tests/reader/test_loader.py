"""Reading ahead keeps the order and the errors, and leaves nothing running."""

import json
import multiprocessing
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any, cast

import pyarrow as pa
import pytest
import torch

from mbrec.columns.schema import Order
from mbrec.distributed.lockstep import Stalled
from mbrec.reader.batch import Batch
from mbrec.reader.loader import Loader, prefetch

pytestmark = pytest.mark.usefixtures("small_slices")

PATIENCE = 60  # Seconds until a test that hangs fails; nothing is measured by it.


def numbers(items: Iterator[int] | range) -> Iterator[Batch]:
    """Return items that stand for batches: prefetch does not look inside."""
    return cast("Iterator[Batch]", iter(items))


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("count", [0, 1, 3, 100])
def test_order_is_kept_and_the_thread_ends(depth: int, count: int) -> None:
    assert list(prefetch(numbers(range(count)), depth=depth)) == list(range(count))
    assert not readers()


class CorruptedError(Exception):
    """An error that only the reader could have raised."""


@pytest.mark.parametrize("error", [CorruptedError("page 7"), ValueError("row 3"), SystemExit("5")])
@pytest.mark.parametrize("before", [0, 1, 10])
def test_error_of_the_reader_reaches_the_consumer_after_the_good_batches(
    error: BaseException, before: int
) -> None:
    def fail() -> Iterator[int]:
        yield from range(before)
        raise error

    batches, found = prefetch(numbers(fail()), depth=2), []
    with pytest.raises(type(error)) as caught:
        for batch in batches:
            found.append(batch)  # noqa: PERF402 - what came before the error counts
    assert caught.value is error
    assert found == list(range(before))
    assert not readers()
    assert next(batches, None) is None


def test_reader_runs_ahead_in_another_thread_by_the_depth() -> None:
    threads, full = set(), threading.Event()

    def endless() -> Iterator[int]:
        for k in range(1_000_000):
            threads.add(threading.current_thread())
            if k == 4:  # One is with the consumer and three in the queue.
                full.set()
            yield k

    batches = prefetch(numbers(endless()), depth=3)
    assert next(batches) == 0
    assert full.wait(PATIENCE)
    assert next(batches) == 1
    batches.close()
    assert threading.current_thread() not in threads
    assert len(threads) == 1


@pytest.mark.parametrize("depth", [1, 4])
def test_closing_early_stops_the_thread_even_if_the_queue_is_full(depth: int) -> None:
    made, full = [], threading.Event()

    def endless() -> Iterator[int]:
        for k in range(1_000_000):
            made.append(k)
            if k == depth + 1:
                full.set()
            yield k

    batches = prefetch(numbers(endless()), depth=depth)
    assert next(batches) == 0
    assert full.wait(PATIENCE)  # From here on the thread can only wait for room.
    assert len(readers()) == 1
    batches.close()
    assert not readers()
    assert made == list(range(depth + 2)), "expected no more than the queue and one in hand"


def test_breaking_out_of_the_loop_stops_the_thread() -> None:
    batches = prefetch(numbers(range(1_000_000)))
    for batch in batches:
        if batch == 5:
            break
    assert len(readers()) == 1
    del batches
    assert not readers()


def test_error_of_the_consumer_stops_the_thread() -> None:
    with pytest.raises(KeyboardInterrupt):
        prefetch_and_fail()
    assert not readers()


def prefetch_and_fail() -> None:
    batches = prefetch(numbers(range(1_000_000)))
    next(batches)
    batches.throw(KeyboardInterrupt())


def test_unused_loader_starts_nothing(new_log: Any) -> None:
    batches = iter(Loader(new_log([[3]]).reader()))
    assert not readers()
    batches.close()
    assert not readers()


# With a reader


@pytest.fixture
def workers_left() -> Callable[[], set[Any]]:
    """Return the processes that this test has started and that still run."""
    before = set(multiprocessing.active_children())
    return lambda: set(multiprocessing.active_children()) - before


@pytest.fixture(scope="module")
def log(new_log: Any) -> Any:
    return new_log([[9, 4], [7, 0, 3]])


def test_thread_yields_what_the_reader_yields_in_each_epoch(log: Any) -> None:
    options = {"shuffle_rows": 8, "seed": 1}
    reader = log.reader(**options)
    loader, seen = Loader(reader), []
    for epoch in (0, 1):
        reader.set_epoch(epoch)
        found = [log.rows_of(batch) for batch in loader]
        assert found == [log.rows_of(batch) for batch in log.batches(epoch=epoch, **options)]
        assert len(found) == reader.num_batches()
        seen.append(found)
    assert seen[0] != seen[1]


@pytest.mark.parametrize("order", list(Order), ids=lambda order: order.name)
def test_worker_processes_yield_what_their_streams_yield_in_turn(
    log: Any, order: Order, workers_left: Any
) -> None:
    options = {"shuffle_rows": 8, "seed": 1, "order": order}
    reader = log.reader(**options)
    reader.set_epoch(3)
    found = [log.rows_of(batch) for batch in Loader(reader, num_workers=2)]
    assert found == [log.rows_of(b) for b in log.batches(workers=2, epoch=3, **options)]
    assert len(found) == reader.num_batches(num_workers=2)
    alone = [log.rows_of(b) for b in log.batches(epoch=3, **options)]
    assert (found == alone) is (order is Order.exact)
    assert not readers()
    assert not workers_left()


@pytest.mark.parametrize("order", list(Order), ids=lambda order: order.name)
def test_worker_processes_go_on_where_they_stood(log: Any, order: Order, workers_left: Any) -> None:
    options = {"shuffle_rows": 8, "seed": 1, "order": order}
    reader = log.reader(**options)
    expected = [log.rows_of(batch) for batch in log.batches(workers=2, **options)]
    batches = iter(Loader(reader, num_workers=2))
    found = [log.rows_of(next(batches)) for _ in range(3)]
    batches.close()
    # Batches that were read ahead and not taken do not count.
    reader.resume(json.loads(json.dumps(reader.state(3, num_workers=2))))
    found += [log.rows_of(batch) for batch in Loader(reader, num_workers=2)]
    assert found == expected
    assert not workers_left()


@pytest.mark.parametrize("workers", [0, 2])
def test_reading_draws_nothing_from_the_generator_of_training(log: Any, workers: int) -> None:
    before = torch.get_rng_state()
    assert len(list(Loader(log.reader(), num_workers=workers))) > 0
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_row_is_reported_to_the_consumer(new_log: Any, workers: int, workers_left: Any) -> None:
    log = new_log([[4, 4]], {"user_id": pa.array([1, 2, 3, 4, 5, 6, 777, 8])})
    batches = iter(Loader(log.reader(order=Order.exact), num_workers=workers))
    assert next(batches).rows_B.tolist() == [0, 1, 2, 3]
    place = r"part-0.parquet: row group 1, row 2, column 'user_id': expected .*, got 777"
    with pytest.raises(ValueError, match=place) as caught:
        next(batches)
    assert not readers()
    # The traceback keeps the workers, in a cycle; left to the garbage collector they take 5 s.
    for frame, _ in traceback.walk_tb(caught.value.__traceback__):
        if workers and frame.f_code.co_name == "_fill":
            frame.f_locals["batches"]._shutdown_workers()
    assert not workers_left()


def test_closing_early_stops_the_worker_processes(new_log: Any, workers_left: Any) -> None:
    log = new_log([[8] * 20])
    batches = iter(Loader(log.reader(), num_workers=2))
    assert next(batches).rows_B.tolist() == [0, 1, 2, 3]
    assert len(workers_left()) == 2
    batches.close()
    assert not workers_left()
    assert not readers()


# Stops and losses


class StopRequest:
    """A request to stop, as the ranks of a job have it."""

    def __init__(self) -> None:
        self.reason = ""

    def requested(self) -> bool:
        return bool(self.reason)


def test_a_reader_that_stalls_is_given_up_at_a_stop_and_not_waited_for() -> None:
    interrupt, goes_on = StopRequest(), threading.Event()

    def stalling() -> Iterator[int]:
        yield 1
        assert goes_on.wait(PATIENCE)

    batches = prefetch(numbers(stalling()), interrupt=interrupt)
    assert next(batches) == 1
    interrupt.reason = "a test"
    with pytest.raises(Stalled):
        next(batches)
    assert readers(), "expected the reader in its last read"
    assert next(batches, None) is None
    goes_on.set()
    for thread in readers():
        thread.join(PATIENCE)
    assert not readers()


def test_a_request_to_stop_takes_no_batch_away_that_is_there() -> None:
    interrupt = StopRequest()
    interrupt.reason = "a test"
    assert list(prefetch(numbers(range(20)), interrupt=interrupt)) == list(range(20))


@pytest.mark.parametrize("lost", ["the first", "all"])
def test_a_batch_that_a_worker_cannot_send_is_an_error_and_not_passed_over(
    log: Any, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    first = log.rows_of(next(iter(log.batches(workers=2))))

    def send(batch: Batch) -> Any:
        if lost == "all" or log.rows_of(batch) == first:
            raise OSError(28, "No space left on device")
        return Batch, tuple(getattr(batch, field.name) for field in fields(batch))

    monkeypatch.setattr(Batch, "__reduce__", send)
    batches = iter(Loader(log.reader(), num_workers=2))
    told = r"expected to send a batch of [\d,]+ bytes .* shared memory, got: .*No space left"
    with pytest.raises(OSError, match=told) as caught:
        list(batches)
    assert "--shm-size" in str(caught.value)
    assert "data.num_workers=0" in str(caught.value)
