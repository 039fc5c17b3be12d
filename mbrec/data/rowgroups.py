"""Reads row groups, verified, with a few files held open."""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mbrec.data.files import Store
from mbrec.data.preflight import RowGroup, open_file

MAX_OPEN_FILES = 16

# Others may count the nulls of lists, and of lists that are null or empty, in another way.
_COUNTS_NULLS = "parquet-cpp-arrow"


class RowGroupReader:
    """Reads the same columns of one row group after another.

    Args:
        store: of the files.
        columns: names of the columns.
        lists: those of them that hold lists.
        strings: paths of those that may hold strings, to be read as dictionaries.
    """

    def __init__(
        self, store: Store, columns: Sequence[str], lists: Sequence[str], strings: Sequence[str]
    ) -> None:
        self._store = store
        self._columns, self._lists, self._strings = list(columns), list(lists), list(strings)
        self._open: OrderedDict[str, _Open] = OrderedDict()

    def read(self, group: RowGroup) -> pa.Table:
        """Return a row group's rows.

        Raises:
            ValueError: if it cannot be read, or is not what the file says it is.
        """
        where = f"{self._store.display(group.file)}: row group {group.index}"
        try:
            file, leaves = self._file(group.file)
            table = file.read_row_group(group.index, columns=self._columns, use_threads=False)
            metadata, writer = file.metadata.row_group(group.index), file.metadata.created_by
        except (OSError, ValueError, pa.ArrowException) as error:
            raise ValueError(f"{where} cannot be read: {error}") from error
        if len(table) != group.num_rows:
            raise ValueError(
                f"{where} cannot be read: expected {group.num_rows:,} rows, got {len(table):,}: "
                "the file is damaged"
            )
        # A page's checksum leaves out its header, whose count of values can lose the end of a list,
        # or make nulls of the bits that fill its last byte.
        counts_nulls = (writer or "").startswith(_COUNTS_NULLS)
        for name in self._columns:
            column, nested = table[name], name in self._lists
            if nested or column.null_count or pa.types.is_dictionary(column.type):
                footer = metadata.column(leaves[name])
                problem = _damage(column, footer, nested=nested, counts_nulls=counts_nulls)
                if problem:
                    raise ValueError(
                        f"{where} cannot be read: column '{name}': {problem}: the file is damaged"
                    )
        return table

    def _file(self, name: str) -> "_Open":
        opened = self._open.pop(name, None)
        if opened is None:
            file = open_file(name, self._store, self._strings)
            opened = file, _leaves(file.schema_arrow)
        self._open[name] = opened
        if len(self._open) > MAX_OPEN_FILES:
            self._open.popitem(last=False)[1][0].close()
        return opened


# A file, and the number of each column's (first) leaf among all of its leaves.
_Open = tuple[pq.ParquetFile, dict[str, int]]


def _leaves(schema: pa.Schema) -> dict[str, int]:
    ends = list(accumulate((_width(field.type) for field in schema), initial=0))
    return dict(zip(schema.names, ends, strict=False))


def _width(kind: pa.DataType) -> int:
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    return sum(_width(kind.field(i).type) for i in range(kind.num_fields)) or 1


def _damage(
    column: pa.ChunkedArray, footer: pq.ColumnChunkMetaData, *, nested: bool, counts_nulls: bool
) -> str | None:
    """Return how a column differs from what the footer says, or None."""
    values = nulls = 0
    for chunk in column.chunks:
        flat = chunk.flatten() if nested else chunk
        if pa.types.is_dictionary(flat.type) and _exceeds(flat):
            return "expected a dictionary of all values, got a part of it"
        # An empty list counts as one value, which is null; so does a null list.
        missing = int((_lengths(chunk) == 0).sum()) if nested else 0
        values += len(flat) + missing
        nulls += flat.null_count + missing
    if values != footer.num_values:
        return f"expected {footer.num_values:,} values, got {values:,}"
    said = footer.statistics if counts_nulls else None
    if said is not None and said.has_null_count and said.null_count != nulls:
        return f"expected {said.null_count:,} nulls, got {nulls:,}"
    return None


def _exceeds(column: pa.DictionaryArray) -> bool:
    largest = pc.call_function("max", [column.indices]).as_py()
    return largest is not None and largest >= len(column.dictionary)


def _lengths(column: pa.Array) -> np.ndarray:
    if column.null_count or pa.types.is_fixed_size_list(column.type):
        return pc.call_function("list_value_length", [column]).fill_null(0).to_numpy(False)
    return np.diff(column.offsets.to_numpy())
