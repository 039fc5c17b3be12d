"""Rows from all over the training files, for what need not be known exactly."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt

from mbrec.prepare.describe.scan import is_list, is_text, open_parquet, read_file
from mbrec.reader.source import Store

SAMPLE_ROWS = 1 << 18
_PIECES = 64
_BATCH_ROWS = SAMPLE_ROWS // _PIECES


class Sample:
    """What was seen in a bounded number of rows.

    Args:
        store: the data set's folder.
        files: to take rows of, evenly.
        schema: the columns.

    Attributes:
        rows: how many rows were looked at.
        is_whole: whether these are all rows.
        counts: column of integers or strings, or of lists of them -> `values` and their `counts`.
        lengths: column of lists -> the length of each row's.
        missing: column -> how many nulls and NaN, those in lists too.

    Raises:
        ValueError: naming a file that cannot be read, or has other columns.
    """

    def __init__(self, store: Store, files: Sequence[str], schema: pa.Schema) -> None:
        self.rows = 0
        self.is_whole = True
        self.missing = dict.fromkeys(schema.names, 0)
        self._store, self._files, self._schema = store, files, schema
        self._counts: dict[str, list[pa.Table]] = {}
        self._lengths: dict[str, list[np.ndarray]] = {}
        for table in self.read(schema.names):
            self._add(table)
        self.counts = {name: _summed(parts) for name, parts in self._counts.items()}
        self.lengths = {name: np.concatenate(parts) for name, parts in self._lengths.items()}
        del self._counts, self._lengths

    def read(self, names: Sequence[str]) -> Iterator[pa.Table]:
        """Yield some columns of the sampled rows: every time the same rows, in the same order."""
        schema = pa.schema([self._schema.field(name) for name in names])
        chosen = _spread(len(self._files), _PIECES)
        self.is_whole = self.is_whole and len(chosen) == len(self._files)
        for file in (self._files[index] for index in chosen):
            with open_parquet(self._store, file) as parquet:
                name = self._store.display(file)
                yield from self._read_file(parquet, schema, name, -(-_PIECES // len(chosen)))

    def frequencies(self, name: str) -> np.ndarray:
        """Return how often each value of a column was seen, most frequent first."""
        return np.sort(self.counts[name]["counts"].to_numpy())[::-1]

    def values(self, name: str) -> pa.Array:
        """Return the different values that were seen in a column, most frequent first."""
        order = [("counts", "descending"), ("values", "ascending")]
        return self.counts[name].sort_by(order)["values"].combine_chunks()

    def _read_file(
        self, parquet: pq.ParquetFile, schema: pa.Schema, name: str, pieces: int
    ) -> Iterator[pa.Table]:
        groups = _spread(parquet.num_row_groups, pieces)
        self.is_whole = self.is_whole and len(groups) == parquet.num_row_groups
        quota = _BATCH_ROWS * max(1, pieces // max(1, len(groups)))
        for group in groups:
            taken = 0
            for batch in read_file(parquet, schema, name, _BATCH_ROWS, [group]):
                yield batch
                taken += len(batch)
                if taken >= quota:
                    break
            self.is_whole = self.is_whole and taken == parquet.metadata.row_group(group).num_rows

    def _add(self, table: pa.Table) -> None:
        self.rows += len(table)
        for column in self._schema.names:
            array: Any = table[column].combine_chunks()
            if is_list(array.type):
                lengths = array.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
                self._lengths.setdefault(column, []).append(lengths)
                self.missing[column] += array.null_count
                array = array.flatten()
            kind = array.type
            self.missing[column] += array.null_count
            if pt.is_floating(kind):
                numbers = array.drop_null().to_numpy(zero_copy_only=False)
                self.missing[column] += int(np.isnan(numbers).sum())
            if pt.is_integer(kind) or pt.is_boolean(kind) or is_text(kind):
                counted = pa.Table.from_struct_array(array.drop_null().value_counts())
                self._counts.setdefault(column, []).append(counted)


def _summed(parts: list[pa.Table]) -> pa.Table:
    summed = pa.concat_tables(parts).group_by("values").aggregate([("counts", "sum")])
    return pa.table({"values": summed["values"], "counts": summed["counts_sum"]})


def _spread(count: int, wanted: int) -> list[int]:
    """Return at most so many of `count` positions, evenly spread."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, wanted))})
