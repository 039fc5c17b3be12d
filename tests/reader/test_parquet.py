"""Every row once, in an order that only depends on what it may, with little memory."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbrec.columns.encode import Encoder
from mbrec.columns.schema import Categorical, Columns, Order
from mbrec.config.tasks import Task
from mbrec.reader import footers, row_groups, windows
from mbrec.reader.parquet import ParquetReader

layouts = st.lists(st.lists(st.integers(0, 6), max_size=4), min_size=1, max_size=3).filter(
    lambda layout: any(map(any, layout))
)
EIGHT_GROUPS = [[16, 16, 16], [16, 16], [16, 16, 16]]
pytestmark = pytest.mark.usefixtures("small_slices")
BOTH_ORDERS = pytest.mark.parametrize("order", list(Order), ids=lambda order: order.name)


def content(log: Any) -> dict[int, Any]:
    """Return what a batch says about each row, by its position."""
    (batch,) = log.batches(global_batch_size=log.table.num_rows)
    return {row[0]: row for row in log.rows_of(batch)}


# Every row once


@BOTH_ORDERS
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 2])
@settings(deadline=None, max_examples=25)
@given(layouts, st.integers(1, 4), st.integers(0, 12), st.integers(0, 3))
def test_every_row_comes_once_in_batches_of_constant_size(
    new_log: Any,
    order: Order,
    world: int,
    workers: int,
    layout: list[list[int]],
    size: int,
    shuffle_rows: int,
    epoch: int,
) -> None:
    log, found, per_rank = new_log(layout), [], []
    options = {"order": order, "world_size": world, "shuffle_rows": shuffle_rows, "seed": size}
    options["global_batch_size"] = size * world
    for rank in range(world):
        streams = log.streams(rank=rank, workers=workers, epoch=epoch, **options)
        per_rank.append(sum(map(len, streams)))
        for stream in streams:
            rows = [log.rows_of(batch) for batch in stream]
            assert all(len(batch) == size for batch in rows)
            flat = [row for batch in rows for row in batch]
            real = [row for row in flat if row[0] >= 0]
            assert flat[: len(real)] == real, "expected padding at the end only"
            found += real
    # The content of each row is that of its position, and each position comes once.
    expected = content(log)
    assert sorted(row[0] for row in found) == list(range(log.table.num_rows)) == list(expected)
    assert all(row == expected[row[0]] for row in found)
    batches = log.reader(**options).num_batches(workers)
    assert batches == max(per_rank)
    if order is Order.exact:
        assert per_rank == [batches] * world


@pytest.mark.parametrize("workers", [0, 2])
def test_rank_with_an_empty_share_yields_nothing_in_dealt_order(new_log: Any, workers: int) -> None:
    log, options = new_log([[1]]), {"world_size": 3, "global_batch_size": 6}
    per_rank = [log.batches(rank=rank, workers=workers, **options) for rank in range(3)]
    assert [len(batches) for batches in per_rank] == [0, 0, 1]
    assert log.reader(**options).num_batches(workers) == 1


@pytest.mark.parametrize("world", [2, 3, 5])
@pytest.mark.parametrize("shuffle_rows", [0, 16])
def test_ranks_get_equally_many_rows_whatever_the_row_groups(
    new_log: Any, world: int, shuffle_rows: int
) -> None:
    log = new_log([[40, 1, 7, 30], [3]])
    options = {"world_size": world, "global_batch_size": 4 * world, "shuffle_rows": shuffle_rows}
    rows = [
        sum(int((b.rows_B >= 0).sum()) for b in log.batches(rank=rank, **options))
        for rank in range(world)
    ]
    assert sum(rows) == 81
    assert max(rows) - min(rows) <= 1


def test_rank_with_an_empty_slice_yields_padding_in_exact_order(new_log: Any) -> None:
    log, options = new_log([[5]]), {"world_size": 4, "global_batch_size": 8, "order": Order.exact}
    rows = [[b.rows_B.tolist() for b in log.batches(rank=rank, **options)] for rank in range(4)]
    assert rows == [[[0, 1]], [[2, 3]], [[4, -1]], [[-1, -1]]]


@pytest.mark.parametrize(("size", "world"), [(5, 2), (4, 3), (0, 1), (0, 2), (-2, 2)])
def test_batch_that_the_ranks_cannot_share_is_refused(new_log: Any, size: int, world: int) -> None:
    pattern = f"^expected a global batch size divisible by the {world} ranks, got {size}$"
    with pytest.raises(ValueError, match=pattern):
        new_log([[2]]).reader(global_batch_size=size, world_size=world)


@settings(deadline=None, max_examples=30)
@given(layouts)
def test_row_is_located_in_its_file(new_log: Any, layout: list[list[int]]) -> None:
    log = new_log(layout)
    rows = np.random.default_rng(0).permutation(log.table.num_rows)
    files, positions = log.reader().locate(rows)
    tables = {file: pq.read_table(file) for file in log.files}
    # `age` counts through the whole data set.
    found = [tables[f]["age"][p].as_py() for f, p in zip(files, positions.tolist(), strict=True)]
    assert found == rows.tolist()


# Order


def global_batches(log: Any, world: int, workers: int, **options: Any) -> list[list[Any]]:
    options = {"order": Order.exact, "global_batch_size": 12, "world_size": world, **options}
    ranks = [log.batches(rank=rank, workers=workers, **options) for rank in range(world)]
    return [
        [row for batch in batches for row in log.rows_of(batch)]
        for batches in zip(*ranks, strict=True)
    ]


@pytest.mark.parametrize("shuffle_rows", [0, 20])
def test_exact_batches_are_the_same_for_any_ranks_and_workers(
    new_log: Any, shuffle_rows: int
) -> None:
    log = new_log([[7, 9], [5, 0, 11], [3]])  # 35 rows: the last batch of 12 is short.
    options = {"shuffle_rows": shuffle_rows, "seed": 3, "epoch": 2}
    expected = global_batches(log, 1, 0, **options)
    assert [len(batch) for batch in expected] == [12, 12, 12]
    for world in (1, 2, 4):
        for workers in (0, 2, 3):
            assert global_batches(log, world, workers, **options) == expected


@BOTH_ORDERS
def test_order_is_a_function_of_seed_and_epoch(new_log: Any, order: Order) -> None:
    log, options = new_log(EIGHT_GROUPS), {"order": order, "shuffle_rows": 40}
    keys = [(seed, epoch) for seed in (0, 1, 2) for epoch in (0, 1, 2)]
    rows = {key: log.rows(seed=key[0], epoch=key[1], **options) for key in keys}
    assert len(set(map(tuple, rows.values()))) == len(keys)
    reader = log.reader(seed=1, **options)
    for epoch in (2, 0, 2, 1):
        reader.set_epoch(epoch)
        again = [row for batch in reader for row in batch.rows_B.tolist()]
        assert again == rows[1, epoch]


@BOTH_ORDERS
def test_file_order_is_kept_without_a_shuffle(new_log: Any, order: Order) -> None:
    log = new_log([[3, 8], [2, 0, 6]])
    for epoch in (0, 5):
        assert log.rows(order=order, epoch=epoch, seed=epoch) == list(range(19))


@BOTH_ORDERS
def test_every_window_has_rows_of_eight_row_groups(new_log: Any, order: Order) -> None:
    log = new_log(EIGHT_GROUPS)
    rows = log.rows(order=order, shuffle_rows=64, seed=1)
    groups = [row // 16 for row in rows]
    for window in (groups[:64], groups[64:]):
        assert sorted(window) == [group for group in range(8) for _ in range(8)]
    # Of eight rows taken at random from 64, hardly ever fewer than three are of different groups.
    for start in range(0, 128, 8):
        assert len(set(groups[start : start + 8])) >= 3


LABEL = Columns({"id": Categorical(2)}, labels={"y": "y"})


@BOTH_ORDERS
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("groups", "group_rows", "buffer"), [(16, 4_096, 4_096), (48, 2_048, 512)])
def test_row_groups_of_one_label_each_are_mixed_as_in_a_perfect_shuffle(
    new_log: Any, order: Order, workers: int, groups: int, group_rows: int, buffer: int
) -> None:
    labels, size = np.repeat(np.arange(groups) % 2, group_rows), 256
    replace = {"id": pa.array(labels), "y": pa.array(labels)}
    log = new_log([[group_rows] * groups], replace, LABEL, names=["id", "y"])
    options = {"tasks": {"t": Task("y")}, "global_batch_size": size, "order": order}
    batches = log.batches(workers=workers, shuffle_rows=buffer, seed=1, **options)
    spread = np.std([batch.labels_BK.mean() for batch in batches])
    perfect = (0.25 / size) ** 0.5
    if groups == 16 and (workers == 0 or order is Order.exact):
        # Each window has rows of all row groups.
        assert spread == pytest.approx(perfect, rel=0.15)
    # Of many row groups a batch sees no more than 8 to 16, half of them with either label.
    assert spread < (perfect**2 + 0.25 / 8) ** 0.5
    assert np.concatenate([b.labels_BK[:, 0] for b in batches]).mean() == 0.5


def test_order_within_a_window_is_that_of_a_perfect_shuffle(new_log: Any) -> None:
    groups, group_rows = 8, 4_096
    places = np.arange(groups * group_rows)
    replace = {"id": pa.array(places % 2), "y": pa.array(places % 2)}
    log = new_log([[group_rows] * groups], replace, LABEL, names=["id", "y"])
    options = {"tasks": {"t": Task("y")}, "global_batch_size": 4_096}
    rows = np.array(log.rows(shuffle_rows=4_096, seed=2, **options))
    for window in rows.reshape(8, 4_096):
        # Neither the row group nor the place in it tells where a row comes in its window.
        for rank in (window // group_rows, window % group_rows):
            correlation = np.corrcoef(np.arange(4_096), rank)[0, 1]
            assert abs(correlation) < 5 / 4_096**0.5
        neighbours = np.mean(np.diff(window // group_rows) == 0)
        assert neighbours == pytest.approx(1 / groups, abs=5 * (0.11 / 4_096) ** 0.5)


def test_streams_and_buffers_are_shuffled_differently(new_log: Any) -> None:
    log, options = new_log(EIGHT_GROUPS), {"shuffle_rows": 16, "world_size": 2}
    orders = set()
    for rank in range(2):
        for stream in log.streams(rank=rank, workers=2, **options):
            rows = [row % 16 for batch in stream for row in batch.rows_B.tolist()]
            orders |= {tuple(rows[:16]), tuple(rows[16:])}
    assert len(orders) == 8


# Resources


@BOTH_ORDERS
@pytest.mark.parametrize("sizes", [[16, 5, 20, 20, 1, 7, 20] * 3, [50] * 18, [200]], ids=len)
@pytest.mark.parametrize("shuffle_rows", [0, 20, 64, 1_000])
def test_memory_is_two_buffers_and_a_slice_of_each_open_row_group(
    new_log: Any,
    monkeypatch: pytest.MonkeyPatch,
    order: Order,
    sizes: list[int],
    shuffle_rows: int,
) -> None:
    batch_size, largest = 8, max(sizes)
    shuffled, decoded, encoded, held, undone = [], [0], [0], [], []
    make_windows, encode = ParquetReader._windows, Encoder._encode
    count = row_groups._Decoder._next

    def spy_windows(reader: ParquetReader, *args: Any, **options: Any) -> Any:
        for rows, order in make_windows(reader, *args, **options):
            shuffled.append(len(rows))
            yield rows, order

    def spy_encode(encoder: Encoder, part: Any, *args: Any) -> None:
        encode(encoder, part, *args)
        encoded[0] += len(part.batch)

    def spy_decode(decoder: Any) -> Any:
        fresh = not decoder._ready
        batch = count(decoder)
        decoded[0] += len(batch) if fresh else 0
        return batch

    monkeypatch.setattr(ParquetReader, "_windows", spy_windows)
    monkeypatch.setattr(Encoder, "_encode", spy_encode)
    monkeypatch.setattr(row_groups._Decoder, "_next", spy_decode)
    done = 0
    options = {"order": order, "shuffle_rows": shuffle_rows, "global_batch_size": batch_size}
    for batch in new_log([sizes]).reader(**options):
        held.append(encoded[0] - done)
        undone.append(decoded[0] - encoded[0])
        done += int((batch.rows_B >= 0).sum())
    assert done == encoded[0] == decoded[0] == sum(sizes) == sum(shuffled)
    window = 2 * shuffle_rows + windows.MAX_OPEN_ROW_GROUPS if shuffle_rows else largest
    assert max(shuffled) <= window
    assert max(held) < window + batch_size
    # Decoded and not in a window yet: what is left of two rows, or of a slice.
    slices = -(-window // min(len(sizes), windows.MIXED_ROW_GROUPS))
    assert max(undone) <= windows.MAX_OPEN_ROW_GROUPS * max(2, slices)


def open_files() -> list[str]:
    links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    return [os.readlink(link) for link in links if os.path.exists(link)]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads /proc")
def test_few_files_are_open_at_a_time(new_log: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_groups, "MAX_OPEN_FILES", 2)
    monkeypatch.setattr(windows, "MIXED_ROW_GROUPS", 2)
    monkeypatch.setattr(windows, "MAX_OPEN_ROW_GROUPS", 2)
    log = new_log([[4, 4]] * 5)
    reader = log.reader(shuffle_rows=1, seed=1)
    assert not set(open_files()) & set(log.files)
    found, counts = [], []
    for batch in reader:
        counts.append(sum(name in log.files for name in open_files()))
        found += batch.rows_B.tolist()
    assert max(counts) == 2
    assert sorted(found) == list(range(40))


@pytest.mark.parametrize("shuffle_rows", [0, 1, 30])
def test_each_file_is_opened_once_an_epoch(
    new_log: Any, monkeypatch: pytest.MonkeyPatch, shuffle_rows: int
) -> None:
    opened: list[str] = []
    plain = row_groups.open_file

    def counted(file: str, *rest: Any) -> pq.ParquetFile:
        opened.append(file)
        return plain(file, *rest)

    monkeypatch.setattr(row_groups, "open_file", counted)
    monkeypatch.setattr(row_groups, "MAX_OPEN_FILES", 2)
    monkeypatch.setattr(windows, "MIXED_ROW_GROUPS", 2)
    monkeypatch.setattr(windows, "MAX_OPEN_ROW_GROUPS", 2)
    log = new_log([[3] * 6] * 5)
    assert sorted(log.rows(shuffle_rows=shuffle_rows, seed=1)) == list(range(90))
    assert sorted(opened) == log.files


def test_footers_are_read_once_and_by_one_rank(
    new_log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, read = new_log([[4, 4], [5]]), []
    plain = footers.read_footer

    def counted(file: Any) -> bytes:
        read.append(file)
        return plain(file)

    monkeypatch.setattr(footers, "read_footer", counted)
    known: list[footers.Footers] = []

    def keep(read_all: Any) -> footers.Footers:
        known.append(read_all())
        return known[0]

    rows = [log.rows_of(batch) for batch in log.reader(once=keep)]
    assert len(read) == 2
    # Another rank has what the first one read.
    other = log.reader(once=lambda read_all: known[0])
    assert [log.rows_of(batch) for batch in other] == rows
    assert other.state(1) == log.reader(once=lambda read_all: known[0]).state(1)
    assert len(read) == 2


# A position in other data; the rest is in test_position.py

READ = [[7, 9], [5, 0, 11], [3]]


@pytest.fixture(scope="module")
def log(new_log: Any) -> Any:
    return new_log(READ)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"seed": 2}, "seed=2, got 1"),
        ({"shuffle_rows": 9}, "shuffle_rows=9, got 8"),
        ({"shuffle_rows": 0}, "shuffle_rows=0, got 8"),
        ({"order": Order.exact}, "order=exact, got dealt"),
    ],
)
def test_position_in_another_order_is_refused(log: Any, options: Any, key: str) -> None:
    written = {"seed": 1, "shuffle_rows": 8}
    state = log.reader(**written).state(2)
    with pytest.raises(ValueError) as caught:
        log.reader(**written | options).resume(state)
    assert str(caught.value).startswith(f"expected a position with {key}: it belongs to other rows")


def test_position_in_windows_of_another_release_is_refused(
    log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = log.reader(shuffle_rows=8)
    state = reader.state(2)
    for before in (state | {"windows": 1}, {k: v for k, v in state.items() if k != "windows"}):
        with pytest.raises(ValueError, match=r"^expected a position in the shuffle of this re"):
            reader.resume(before)
    monkeypatch.setattr(row_groups, "MAX_OPEN_FILES", 2)  # Those of three files have another order.
    with pytest.raises(ValueError, match=r"^expected a position in the shuffle of this re"):
        reader.resume(state)
    # Rows that are not shuffled have no windows.
    assert "windows" not in log.reader().state(2)


@pytest.mark.parametrize(
    ("layout", "key"),
    [
        ([[7, 9], [5, 11], [3], [1]], "rows=36, got 35"),
        ([[7, 9], [5, 11], [2]], "rows=34, got 35"),
        ([[9, 7], [5, 0, 11], [3]], "files="),  # Other row groups are shuffled otherwise.
        ([[7, 9, 5, 0, 11], [3]], "files="),
    ],
)
def test_position_in_other_data_is_refused(new_log: Any, log: Any, layout: Any, key: str) -> None:
    state = log.reader().state(2)
    with pytest.raises(ValueError, match=f"^expected a position with {key}"):
        new_log(layout).reader().resume(state)


def test_position_is_found_again_if_the_folder_moved_or_has_empty_row_groups(new_log: Any) -> None:
    state = new_log(READ).reader().state(2)
    moved = new_log([[7, 9], [5, 11], [3]]).reader()
    moved.resume(state)
    assert next(iter(moved)).rows_B.tolist() == [8, 9, 10, 11]
