"""The peers' loaders and training beside ours, on one table of rows drawn at random."""

import tempfile
from collections.abc import Callable, Sequence
from copy import deepcopy
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mbrec.columns.schema import Categorical, Columns, Numerical
from mbrec.config.settings import Config, Data
from mbrec.config.tasks import Task
from mbrec.distributed import process
from mbrec.job import build, readers
from mbrec.reader.parquet import ParquetReader
from research.bench import peers
from research.bench.reading import Speed, compare

ROWS = 200_000
CARDINALITIES = {f"id{i}": 100_000 for i in range(8)} | {f"code{i}": 300 for i in range(5)}
NUM_DENSE = 8
LABELS = ["a", "b", "c"]
STEPS = 20
ROUNDS = 7


def make_table(rows: int = ROWS) -> dict[str, np.ndarray]:
    """Return columns of ids, of normal numbers, and of labels that are drawn at random."""
    random = np.random.default_rng(0)
    table: dict[str, np.ndarray] = {
        name: random.integers(0, size, rows) for name, size in CARDINALITIES.items()
    }
    table |= {f"x{i}": random.random(rows, dtype=np.float32) for i in range(NUM_DENSE)}
    return table | {name: (random.random(rows) < 0.1).astype(np.int8) for name in LABELS}


def measure(config: Config, modules: Sequence[str]) -> dict[str, Speed]:
    """Return what was measured -> rates, of ours and of the peers that are installed.

    Args:
        config: of the run; its data and tasks are replaced by those of the table.
        modules: names of functions of `research.bench.peers`.
    """
    size = config.trainer.global_batch_size
    table = make_table(ROWS // size * size)  # whole batches only
    dim = config.model.embedding_dim
    others: list[Any] = [
        getattr(peers, module)(table, CARDINALITIES, LABELS, size, dim) for module in modules
    ]
    with tempfile.TemporaryDirectory() as folder:
        pq.write_table(pa.table(table), Path(folder) / "rows.parquet", row_group_size=8_192)
        reader, pipeline = _ours(config, folder)
        batches = _endless(reader)
        loaders = {"mbrec, from Parquet": _taking(batches, size)}
        training = {"mbrec, hook, from Parquet": _training(pipeline, batches, size)}
        for peer in others:
            loaders[peer.name] = _steps(peer.load, size)
            training[peer.name] = _steps(peer.train, size)
        return {
            f"loaders alone, {ROWS:,} rows": compare(loaders, rounds=ROUNDS),
            f"training, {len(CARDINALITIES)} tables x {dim}": compare(training, rounds=ROUNDS),
        }


def _ours(config: Config, folder: str) -> tuple[ParquetReader, Any]:
    config = deepcopy(config)
    columns = Columns(
        {name: Categorical(cardinality=rows) for name, rows in CARDINALITIES.items()},
        {f"x{i}": Numerical() for i in range(NUM_DENSE)},
        {name: name for name in LABELS},
    )
    config.data = Data(folder, ["*.parquet"], ["*.parquet"], columns)
    config.tasks = {name: Task(name) for name in LABELS}
    runtime = process.start()
    reader = readers.train_reader(config, runtime)
    sharded = build.shard(config, runtime)
    sharded.model.train()
    return reader, sharded.pipeline


def _endless(reader: ParquetReader) -> Any:
    for epoch in cycle(range(1_000)):
        reader.set_epoch(epoch)
        yield from reader


def _taking(batches: Any, size: int) -> Callable[[], int]:
    return lambda: sum(1 for _ in islice(batches, STEPS)) * size


def _training(pipeline: Any, batches: Any, size: int) -> Callable[[], int]:
    def train() -> int:
        held = islice(batches, STEPS)
        try:
            while True:
                pipeline.progress(held)
        except StopIteration:
            return STEPS * size

    return train


def _steps(run: Callable[[int], object], size: int) -> Callable[[], int]:
    def block() -> int:
        run(STEPS)
        return STEPS * size

    return block
