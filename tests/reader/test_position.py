"""Training goes on where it stood: the same batches, or under other ranks each row once."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mbrec.columns.schema import Categorical, Columns, Order
from mbrec.config.tasks import Task
from mbrec.reader import windows
from mbrec.reader.position import Position, Stretch, batches_read, next_worker

BOTH_ORDERS = pytest.mark.parametrize("order", list(Order), ids=lambda order: order.name)
LAYOUT = [[7, 9], [5, 0, 11], [3]]  # 35 rows.

pytestmark = pytest.mark.usefixtures("small_slices", "few_at_a_time")


@pytest.fixture(scope="module")
def few_at_a_time() -> Iterator[None]:
    """Two row groups are mixed, and three open: an epoch of a few has windows of every kind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "MIXED_ROW_GROUPS", 2)
        patch.setattr(windows, "MAX_OPEN_ROW_GROUPS", 3)
        yield


CUTS = ["begin", "one", "middle", "last", "end"]


def cut_at(name: str, batches: int) -> int:
    counts = {"begin": 0, "one": 1, "middle": batches // 2, "last": batches - 1, "end": batches}
    return min(counts[name], batches)


def saved(state: Any) -> Any:
    """Return what a file with the state holds."""
    return json.loads(json.dumps(state))


def per_rank(log: Any, world: int, workers: int, **options: Any) -> list[list[Any]]:
    """Return everything that the batches of each rank say."""
    ranks = [
        log.batches(rank=rank, world_size=world, workers=workers, **options)
        for rank in range(world)
    ]
    return [[log.rows_of(batch) for batch in batches] for batches in ranks]


# The same ranks and workers


@pytest.fixture(scope="module")
def log(new_log: Any) -> Any:
    return new_log(LAYOUT)


@pytest.fixture(scope="module")
def undisturbed(log: Any) -> Any:
    known: dict[Any, Any] = {}

    def find(order: Order, workers: int, **options: Any) -> list[list[Any]]:
        if (order, workers) not in known:
            known[order, workers] = per_rank(log, 2, workers, order=order, epoch=3, **options)
        return known[order, workers]

    return find


@pytest.mark.faults
@BOTH_ORDERS
@pytest.mark.parametrize("workers", [0, 1, 2, 4])
@pytest.mark.parametrize("cut", CUTS)
def test_batches_after_two_resumes_are_those_of_an_undisturbed_run(
    log: Any, undisturbed: Any, order: Order, workers: int, cut: str
) -> None:
    options = {"shuffle_rows": 8, "seed": 5, "global_batch_size": 4}
    expected = undisturbed(order, workers, **options)
    options |= {"order": order}
    reader = log.reader(world_size=2, **options)
    reader.set_epoch(3)
    first = cut_at(cut, reader.num_batches(workers))
    state = saved(reader.state(first, workers))
    once = per_rank(log, 2, workers, state=state, **options)
    assert once == [batches[first:] for batches in expected]

    reader.resume(state)
    left = reader.num_batches(workers)
    assert left == max(len(batches[first:]) for batches in expected)
    second = left // 2
    state = saved(reader.state(second, workers))
    twice = per_rank(log, 2, workers, state=state, **options)
    assert twice == [batches[first + second :] for batches in expected]
    # One step or two make no difference.
    reader.set_epoch(3)
    assert saved(reader.state(first + second, workers)) == state


@BOTH_ORDERS
def test_epoch_after_a_resumed_one_is_a_whole_one(log: Any, order: Order) -> None:
    options = {"shuffle_rows": 8, "seed": 5, "order": order}
    reader = log.reader(**options)
    reader.set_epoch(1)
    reader.resume(saved(reader.state(4)))
    assert reader.epoch == 1
    assert reader.num_batches() == 5
    reader.set_epoch(2)
    assert reader.num_batches() == 9
    found = [row for batch in reader for row in batch.rows_B.tolist() if row >= 0]
    assert found == log.rows(epoch=2, **options)


@BOTH_ORDERS
@pytest.mark.parametrize("workers", [0, 3])
def test_state_is_the_same_on_every_rank_and_small(log: Any, order: Order, workers: int) -> None:
    options = {"order": order, "world_size": 4, "shuffle_rows": 9}
    readers = [log.reader(rank=rank, **options) for rank in range(4)]
    for batches in (0, 1, 3, 100):
        states = [json.dumps(reader.state(batches, workers)) for reader in readers]
        assert len(set(states)) == 1
        # Beside that, a digest for each column.
        rest = {key: at for key, at in json.loads(states[0]).items() if key != "content"}
        assert len(json.dumps(rest)) < 700
    assert not any(states for states in json.loads(states[0])["unread"])


# Other ranks and workers

SMALL = Columns({"id": Categorical(100)}, labels={"y": "y"})


@pytest.fixture(scope="module")
def new_small_log(new_log: Any) -> Any:
    """Writes logs of two columns, each layout once."""
    known: dict[str, Any] = {}

    def find(layout: list[list[int]]) -> Any:
        if (key := str(layout)) not in known:
            n = sum(map(sum, layout))
            replace = {"id": pa.array(np.arange(n)), "y": pa.array([1] * n)}
            known[key] = new_log(layout, replace, SMALL, names=["id", "y"])
        return known[key]

    return find


layouts = st.lists(st.lists(st.integers(0, 6), max_size=4), min_size=1, max_size=3).filter(
    lambda layout: any(map(any, layout))
)
# Ranks, workers, rows of a batch on each rank, and the part of the batches that is read.
legs = st.tuples(st.integers(1, 4), st.integers(0, 3), st.integers(1, 3), st.floats(0, 1))
THREE_LEGS = [(4, 3, 1, 0.3), (1, 0, 2, 0.5), (3, 2, 1, 0.5)]


def read_leg(log: Any, state: Any, leg: Any, **options: Any) -> tuple[list[list[list[int]]], Any]:
    """Return the rows of each batch of each rank, up to the cut, and the state there."""
    world, workers, size, part = leg
    options |= {"tasks": {"t": Task("y")}, "world_size": world, "global_batch_size": size * world}
    reader = log.reader(**options)
    reader.set_epoch(2)
    if state is not None:
        reader.resume(state)
    batches = reader.num_batches(workers)
    ranks = [
        log.batches(rank=rank, workers=workers, epoch=2, state=state, **options)
        for rank in range(world)
    ]
    rows = [[batch.rows_B.tolist() for batch in rank] for rank in ranks]
    assert batches == max(map(len, rows))
    taken = round(part * batches)
    return [rank[:taken] for rank in rows], saved(reader.state(taken, workers))


@pytest.mark.faults
@settings(deadline=None, max_examples=60)
@given(
    layouts,
    st.sampled_from(list(Order)),
    st.integers(0, 12),
    st.lists(legs, min_size=1, max_size=3),
    legs,
)
@example(
    [[6, 6], [6]], Order.dealt, 5, [(4, 3, 1, 0.3), (1, 0, 2, 0.5), (3, 2, 1, 0.5)], (2, 1, 3, 1)
)
@example(
    [[6, 6], [6]], Order.exact, 5, [(4, 3, 1, 0.3), (1, 0, 2, 0.5), (3, 2, 1, 0.5)], (2, 1, 3, 1)
)
def test_every_row_comes_once_whatever_the_ranks_and_workers_of_each_resume(
    new_small_log: Any, layout: Any, order: Order, shuffle_rows: int, some: list[Any], last: Any
) -> None:
    log, state, found = new_small_log(layout), None, []
    options = {"order": order, "shuffle_rows": shuffle_rows, "seed": 1}
    for leg in [*some, (*last[:3], 1.0)]:
        ranks, state = read_leg(log, state, leg, **options)
        # One global batch after another, each rank's part in turn.
        steps = range(max(map(len, ranks), default=0))
        parts = [rank[t] for t in steps for rank in ranks if t < len(rank)]
        found += [row for part in parts for row in part if row >= 0]
    assert sorted(found) == list(range(log.reader(tasks={"t": Task("y")}).num_rows))
    assert not any(state["unread"])
    if order is Order.exact:
        assert found == log.rows(tasks={"t": Task("y")}, epoch=2, **options)


def test_state_stays_small_after_many_resumes(log: Any) -> None:
    state = None
    for world in (8, 3, 7, 1, 6, 2, 5, 4):
        reader = log.reader(world_size=world, global_batch_size=world, shuffle_rows=9)
        if state is not None:
            reader.resume(state)
        state = saved(reader.state(1, 2))
    assert len(json.dumps(state)) < 1_000


# What is refused


BROKEN: list[tuple[str, Any]] = [
    ("version", 1),
    ("version", 3),
    ("content", {}),
    ("content", {"columns": {"age": 3}, "statistics": "", "files": None}),
    ("version", None),
    ("epoch", -1),
    ("epoch", 1.0),
    ("epoch", True),
    ("epoch", None),
    ("streams", 0),
    ("streams", -2),
    ("streams", 2**80),
    ("unread", []),
    ("unread", None),
    ("unread", "all"),
    ("unread", [[0, 0, 35]]),
    ("unread", [[[0, 0]]]),
    ("unread", [[[0, 0, 9, 9]]]),
    ("unread", [[[0, 0, 9.0]]]),
    ("unread", [[[0, 0, None]]]),
    ("unread", [[[0, -1, 9]]]),
    # A stream that there is not, more rows than there are, none, and rows twice.
    ("unread", [[[1, 0, 35]]]),
    ("unread", [[[0, 0, 36]]]),
    ("unread", [[[0, 10, 9]]]),
    ("unread", [[[0, 0, 10], [0, 9, 20]]]),
    ("unread", [[[0, 0, 20]], [[0, 10, 15]]]),
    ("unread", [[[0, 5, 6]], [[0, 5, 6]]]),
]


@pytest.mark.parametrize(("key", "value"), BROKEN, ids=str)
def test_position_that_is_none_is_refused(log: Any, key: str, value: Any) -> None:
    reader = log.reader()
    state = saved(reader.state(2)) | {key: value}
    with pytest.raises(ValueError, match=r"^expected a position "):
        reader.resume(state)
    with pytest.raises(ValueError, match=r"^expected a position "):
        reader.resume({name: part for name, part in state.items() if name != key})
    assert reader.num_batches() == 9, "expected a refused position to leave no trace"


def test_streams_of_a_foreign_position_take_no_memory(log: Any) -> None:
    reader = log.reader()
    reader.resume(saved(reader.state(0)) | {"streams": 10**12, "unread": [[[10**12 - 1, 0, 1]]]})
    assert reader.num_batches() == 1


# The parts


@settings(max_examples=300)
@given(st.integers(0, 60), st.lists(st.integers(0, 9), min_size=1, max_size=5))
def test_batches_are_counted_as_a_loader_takes_them(batches: int, available: list[int]) -> None:
    turns = [(turn, worker) for worker, count in enumerate(available) for turn in range(count)]
    taken, left = sorted(turns)[:batches], sorted(turns)[batches:]
    read = [sum(worker == which for _, worker in taken) for which in range(len(available))]
    assert batches_read(batches, available) == read
    assert next_worker(read, available) == (left[0][1] if left else 0)


def rows_of(position: Position) -> list[list[tuple[int, int]]]:
    return [
        [(s.stream, row) for s in stretches for row in range(s.start, s.stop)]
        for stretches in position.unread
    ]


@settings(max_examples=200)
@given(
    st.integers(0, 40),
    st.integers(1, 6),
    st.lists(st.tuples(st.integers(1, 6), st.lists(st.integers(0, 9), min_size=6)), max_size=4),
)
def test_positions_share_out_all_rows_and_lose_those_read(
    num_rows: int, streams: int, steps: list[tuple[int, list[int]]]
) -> None:
    position = Position.start(7, num_rows, streams)
    assert sum(position.sizes) == num_rows
    for readers, read in steps:
        before = rows_of(position)
        dealt = position.dealt(readers)
        after = rows_of(dealt)
        assert [row for part in after for row in part] == [row for part in before for row in part]
        assert dealt.sizes == [len(part) for part in after]
        if readers != len(before):
            assert max(dealt.sizes) - min(dealt.sizes) <= 1
        position = dealt.after(read[:readers])
        pairs = zip(after, read, strict=False)
        assert rows_of(position) == [part[count:] for part, count in pairs]
        assert Position.parse(saved(position.plain()), num_rows) == position
        assert all(len(s) for stretches in position.unread for s in stretches)


def test_streams_of_an_epoch_are_equally_long() -> None:
    position = Position.start(0, 10, 4)
    assert position.unread == tuple((Stretch(s, 0, n),) for s, n in enumerate([2, 3, 2, 3]))
    assert position == position.dealt(4) == position.after([0] * 4)
