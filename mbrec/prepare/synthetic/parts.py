"""The files of a synthetic data set, each of which can be written without the others."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pyarrow import parquet

from mbrec.columns import manifest
from mbrec.config.synthetic import LABELS, Array, Synthetic
from mbrec.prepare.synthetic.world import World

TRAIN, EVALUATION = "train", "evaluation"

_SHARDS_PER_FILE = 8
_OPTIONS: dict[str, Any] = {
    "write_page_checksum": True,
    # Columns of few values. By default, a dictionary of every column is begun, and given up.
    "use_dictionary": ["day", "tags.list.element", *LABELS],
}


@dataclass(frozen=True)
class File:
    """A file to write: its path below the data set, and (index, rows) of its shards."""

    path: str
    shards: list[tuple[int, int]]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(rows for _, rows in self.shards)


@dataclass(frozen=True)
class Written:
    """A file that was written: its path, its entry in the manifest, and each label's sum."""

    path: str
    entry: manifest.File
    label_sums: Array


def plan(settings: Synthetic) -> list[File]:
    """Returns the files in time order; each can be written without the others."""
    files, size = [], settings.rows_per_shard
    for split, first, total in (
        (TRAIN, 0, settings.train_rows),
        (EVALUATION, settings.train_shards, settings.evaluation_rows),
    ):
        rows = [min(size, total - start) for start in range(0, total, size)]
        shards = list(enumerate(rows, start=first))
        for number, start in enumerate(range(0, len(shards), _SHARDS_PER_FILE)):
            path = f"{split}/part-{number:05d}.parquet"
            files.append(File(path, shards[start : start + _SHARDS_PER_FILE]))
    return files


def write_files(world: World, folder: Path, files: Sequence[File]) -> Generator[int | Written]:
    """Writes files, one row group a shard.

    Yields:
        The number of rows of a shard that was written; after the last of a file, what it became.
    """
    schema = world.shard(0, 0).table().schema
    for file in files:
        path, sums = folder / file.path, np.zeros(len(LABELS), dtype=np.int64)
        with parquet.ParquetWriter(path, schema, **_OPTIONS) as writer:
            for index, rows in file.shards:
                shard = world.shard(index, rows)
                writer.write_table(shard.table(), row_group_size=rows)
                sums += shard.labels.sum(axis=0)
                yield rows
        yield Written(file.path, manifest.describe(path, file.rows), sums)
