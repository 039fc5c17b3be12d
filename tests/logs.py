"""A small log in Parquet files with every kind of column, and ways to look at its batches."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mbrec.columns.schema import Categorical, Columns, Numerical, Transform
from mbrec.config.tasks import Task
from mbrec.reader import parquet, row_groups, windows
from mbrec.reader.batch import Batch
from mbrec.reader.parquet import ParquetReader

COLUMNS = Columns(
    categorical={
        "user": Categorical(cardinality=50, column="user_id"),
        "tags": Categorical(cardinality=9, multi_hot=True),
        "query": Categorical(hash_size=16),
        "words": Categorical(hash_size=11, multi_hot=True, column="word_ids"),
        "item": Categorical(cardinality=1_000),
    },
    numerical={
        "age": Numerical(mean=3.0, std=2.0),
        "views": Numerical(Transform.log1p, mean=0.5, std=1.5, column="num_views"),
    },
    labels={"like": "like", "click": "click", "buy": "is_buy", "unused": "not_in_the_files"},
    weight="wt",
    oracle={"cvr": "__p_buy", "ctr": "__p_click", "no_such_task": "__not_in_the_files"},
)
TASKS = {"ctr": Task("click"), "like": Task("like"), "cvr": Task("buy", given="click")}


def make_table(n: int) -> pa.Table:
    """Rows whose `age` is their position; the rest is random."""
    random = np.random.default_rng(n)

    def lists(low: int, high: int) -> pa.Array:
        offsets = np.concatenate([[0], np.cumsum(random.integers(0, 4, n))])
        values = random.integers(low, high, offsets[-1])
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values))

    return pa.table(
        {
            "user_id": random.integers(0, 50, n),
            "tags": lists(0, 9),
            "query": random.integers(-(2**63), 2**63 - 1, n),
            "word_ids": lists(-100, 100),
            "item": random.integers(0, 1_000, n).astype(np.int32),
            "age": np.arange(n, dtype=np.float64),
            "num_views": random.integers(0, 1_000, n),
            "click": random.integers(0, 2, n).astype(np.int8),
            "is_buy": random.integers(0, 2, n).astype(bool),
            "like": random.random(n, dtype=np.float32),
            "wt": random.random(n) * 3,
            "__p_click": random.random(n),
            "__p_buy": random.random(n),
            "ignored": ["text"] * n,
        }
    )


def rows_of(batch: Batch) -> list[tuple[Any, ...]]:
    """Return everything that a batch says about each row, as Python values; None for nan."""
    bags = batch.sparse.to_dict().values()
    columns: list[Sequence[Any]] = [[ids.tolist() for ids in bag.to_dense()] for bag in bags]
    columns += [batch.dense_BN.tolist(), batch.labels_BK.tolist(), batch.masks_BK.tolist()]
    columns += [batch.weights_B.tolist()]
    if batch.oracle_BK is not None:
        columns += [[[None if p != p else p for p in row] for row in batch.oracle_BK.tolist()]]
    return list(zip(batch.rows_B.tolist(), *columns, strict=True))


def in_turn(streams: Sequence[list[Batch]]) -> Iterator[Batch]:
    """Take from the workers in turn, skipping those that ran out, as a DataLoader does."""
    for t in range(max(map(len, streams))):
        yield from (stream[t] for stream in streams if t < len(stream))


@dataclass
class Log:
    """The files, their rows and how they are read."""

    files: list[str]
    table: pa.Table
    columns: Columns
    rows_of = staticmethod(rows_of)

    def reader(self, **options: Any) -> ParquetReader:
        options = {"tasks": TASKS, "global_batch_size": 4, **options}
        return ParquetReader(self.files, self.columns, **options)

    def streams(
        self,
        *,
        workers: int = 0,
        epoch: int = 0,
        state: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> list[list[Batch]]:
        """Return the batches of each worker of a rank, without starting processes.

        With a state, those after it.
        """
        reader, streams = self.reader(**options), []
        if state is None:
            reader.set_epoch(epoch)
        else:
            reader.resume(state)
        for index in range(max(1, workers)):
            info = SimpleNamespace(id=index, num_workers=workers) if workers else None
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(parquet, "get_worker_info", lambda info=info: info)
                streams.append(list(reader))
        return streams

    def batches(self, **options: Any) -> list[Batch]:
        """Return the batches of a rank."""
        return list(in_turn(self.streams(**options)))

    def rows(self, **options: Any) -> list[int]:
        """Return the positions of a rank's rows in the order they come, without the padding."""
        rows = [row for batch in self.batches(**options) for row in batch.rows_B.tolist()]
        return [row for row in rows if row >= 0]


@pytest.fixture(scope="module")
def small_slices() -> Iterator[None]:
    """Slices of any length, decoded two rows at a time: a small log is read as a large one is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "MIN_SLICE_ROWS", 1)
        patch.setattr(row_groups, "_MIN_DECODED_ROWS", 2)
        yield


@pytest.fixture(scope="session")
def new_log(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Log]:
    """Writes logs: `layout` holds the sizes of the row groups of each file.

    `replace` are columns to be replaced or added, `names` those to be kept (default: all).
    """

    def write(
        layout: Sequence[Sequence[int]],
        replace: dict[str, pa.Array] | None = None,
        columns: Columns = COLUMNS,
        names: Sequence[str] | None = None,
        **options: Any,
    ) -> Log:
        folder = tmp_path_factory.mktemp("log")
        table = make_table(sum(map(sum, layout)))
        for name, values in (replace or {}).items():
            where = table.column_names.index(name) if name in table.column_names else None
            table = (
                table.append_column(name, values)
                if where is None
                else table.set_column(where, name, values)
            )
        table = table.select(names or table.column_names)
        files, start = [], 0
        for k, sizes in enumerate(layout):
            files.append(str(folder / f"part-{k}.parquet"))
            with pq.ParquetWriter(files[-1], table.schema, **options) as writer:
                for size in sizes:
                    writer.write_table(table.slice(start, size))
                    start += size
        return Log(files, table, columns)

    return write
