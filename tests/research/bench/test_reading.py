"""The arithmetic of the comparisons, and what is compared; no test depends on a time."""

from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mbrec.columns.schema import Categorical, Columns, Numerical
from mbrec.config.tasks import Task
from mbrec.monitor import timing
from mbrec.reader.parquet import ParquetReader
from mbrec.reader.source import open_store
from research.bench import reading

COLUMNS = Columns(
    {"id": Categorical(9), "tags": Categorical(5, multi_hot=True)},
    {"x": Numerical()},
    {"y": "y", "z": "z > 0"},
)
READ = ["id", "tags", "x", "y"]
OPTIONS: dict[str, Any] = {
    "columns": COLUMNS,
    "tasks": {"t": Task("y")},
    "global_batch_size": 4,
    "shuffle_rows": 8,
}
FILES = ["a.parquet", "b.parquet"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files of 10 rows, with columns that nobody reads."""
    n = 10
    table = pa.table({"id": np.arange(n) % 9, "tags": [[k % 5] * (k % 3) for k in range(n)]})
    for name in ("x", "y", "z", "more"):
        table = table.append_column(name, pa.array(np.arange(n) % 2))
    for file in FILES:
        pq.write_table(table, tmp_path / file, row_group_size=4)
    return tmp_path


def make(folder: Path, **changed: Any) -> ParquetReader:
    return ParquetReader(FILES, store=open_store(str(folder)), **{**OPTIONS, **changed})


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `compare` was called with; nothing is timed."""
    blocks: dict[str, Any] = {}
    monkeypatch.setattr(reading, "compare", lambda given, **_: blocks.update(given))
    return blocks


def test_rates_and_ratios_are_those_of_the_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    def interleave(blocks: list[Any], wait: Any, *, rounds: int) -> list[list[float]]:
        assert [block() for block in blocks] == [100, 50]
        assert rounds == 3
        return [[1.0, 2.0, 4.0], [1.0, 0.5, 1.0]]

    monkeypatch.setattr(reading, "interleave", interleave)
    speed = reading.compare({"first": lambda: 100, "other": lambda: 50}, rounds=3)
    # 100, 50 and 25 rows a second; and 50, 100 and 50.
    assert speed.rows_per_second == {"first": 50, "other": 50}
    # Round by round, and not of the medians: 0.5, 2 and 2.
    assert speed.ratios["other"].median == 2
    assert speed.ratios["first"] == timing.Spread(1, 1, 1)


def test_slower_block_is_told_by_its_share_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = count()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(clock)))

    def slow() -> int:
        next(clock)
        return 30

    speed = reading.compare({"fast": lambda: 30, "slow": slow}, rounds=5)
    assert speed.rows_per_second == {"fast": 30, "slow": 15}
    first, second = speed.lines()
    assert first.split() == ["fast", "30", "rows/s"]
    assert second.split("rows/s")[1].strip() == "0.50 (0.50 to 0.50) of fast"


def test_pyarrow_and_the_reader_read_the_same_columns_of_the_same_rows(
    folder: Path, compared: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[tuple[str, Any, bool, int]] = []

    class Spy(pq.ParquetFile):
        def read(self, **options: Any) -> pa.Table:  # pyright: ignore
            table = super().read(**options)
            taken.append(("arrow", options["columns"], options["use_threads"], len(table)))
            return table

        def iter_batches(self, *args: Any, **options: Any) -> Any:
            for batch in super().iter_batches(*args, **options):
                taken.append(("reader", options["columns"], options["use_threads"], len(batch)))
                yield batch

    monkeypatch.setattr(pq, "ParquetFile", Spy)
    monkeypatch.setattr(reading, "BLOCK_ROWS", 40)
    readers: list[ParquetReader] = []

    def kept(**changed: Any) -> ParquetReader:
        readers.append(make(folder, **changed))
        return readers[-1]

    reading.beside_arrow(kept)
    names = ["pyarrow, columns into memory", "reader, in file order", "reader, shuffle 8"]
    assert list(compared) == names
    assert sorted(reader.shuffle_rows for reader in readers) == [0, 8]
    for name, block in compared.items():
        taken.clear()
        # Two passes over 20 rows, each with its own shuffle.
        assert block() == 40
        who = "arrow" if name.startswith("pyarrow") else "reader"
        assert {step[0] for step in taken} == {who}
        assert all(step[1:3] == (READ, False) for step in taken)
        assert sum(step[3] for step in taken) == 40
    assert [reader.epoch for reader in readers] == [1, 1]


def test_small_table_is_read_once_a_block_and_a_large_one_too(
    folder: Path, compared: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for rows in (1, 20, 39):
        monkeypatch.setattr(reading, "BLOCK_ROWS", rows)
        reading.beside_arrow(lambda **changed: make(folder, **changed))
        assert {block() for block in compared.values()} == {20}


def test_model_trains_on_as_many_batches_in_memory_as_is_said(
    folder: Path, compared: dict[str, Any]
) -> None:
    class Pipeline:
        steps: list[Any]

        def progress(self, batches: Any) -> None:
            self.steps.append(next(batches))

    pipeline = Pipeline()
    reading.beside_model(make(folder), pipeline)
    train, read = compared["training, batches in memory"], compared["reader"]
    for _ in range(2):
        pipeline.steps = []
        assert train() == 4 * reading.MODEL_STEPS
        assert len(pipeline.steps) == reading.MODEL_STEPS
        # All five batches of the reader, over and over.
        assert len({id(batch) for batch in pipeline.steps}) == 5
    assert read() == 20


@pytest.mark.slow
def test_memory_is_that_of_the_process_that_reads(tmp_path: Path) -> None:
    n, width = 1_000, 60
    names = [f"x{k}" for k in range(width)]
    table = pa.table({name: np.arange(n) % 7 for name in ["id", *names, "y"]})
    table = table.set_column(width + 1, "y", pa.array(np.arange(n) % 2))
    pq.write_table(table, tmp_path / "a.parquet")
    columns = Columns({"id": Categorical(9)}, {name: Numerical() for name in names}, {"y": "y"})
    # Reading 100 files fills a buffer that one does not: 240 bytes a row, and as much again.
    options = {**OPTIONS, "columns": columns, "shuffle_rows": 100_000, "global_batch_size": 100}
    held = np.ones(600 << 17)  # this process's own memory, which is not to be measured
    found = reading.peak_memory(open_store(str(tmp_path)), ["a.parquet"], [100_000], options)
    assert held[-1] == 1
    (rows,) = found
    assert rows == 100_000
    assert 15 < found[rows] < 300
