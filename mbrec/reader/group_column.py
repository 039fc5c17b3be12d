"""A column that says which group a row belongs to, such as its user: read for a GAUC."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mbrec.columns.hashing import hash_rows
from mbrec.reader.footers import open_file
from mbrec.reader.parquet import ParquetReader
from mbrec.reader.row_groups import RowGroupReader

Array = NDArray[Any]


class GroupColumn:
    """The group of each row of a reader, by a hash of a column of its files. Null is a group.

    Args:
        reader: of the rows.
        column: of the files.

    Raises:
        ValueError: if the files have no such column.
    """

    def __init__(self, reader: ParquetReader, column: str) -> None:
        self._reader = reader
        self._column = RowGroupReader(reader.store, [column])
        self._hashes: dict[int, Array] = {}
        first = reader.row_groups[0]
        with open_file(first.file, reader.store) as file:
            names = file.schema_arrow.names
        if column not in names:
            raise ValueError(
                f"expected a column of the evaluation rows in monitor.group, got {column}; "
                f"{reader.store.display(first.file)} has {', '.join(names)}"
            )

    def groups(self, rows: Array) -> Array:
        """Return the group of each row, uint64, by its position in the data set."""
        starts = np.array([group.first_row for group in self._reader.row_groups])
        which = np.searchsorted(starts, rows, side="right") - 1
        groups = np.empty(len(rows), np.uint64)
        for index in np.unique(which):
            if index not in self._hashes:
                found = self._column.read(self._reader.row_groups[index])
                self._hashes[index] = hash_rows(pa.Table.from_batches([found]))[0]
            here = which == index
            groups[here] = self._hashes[index][rows[here] - starts[index]]
        return groups
