"""What the footers of Parquet files say of their columns, without reading a row."""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt

from mbrec.prepare.describe.scan import is_list, open_parquet
from mbrec.reader.source import Store

_THREADS = 8


@dataclass
class Range:
    """What footers say of a column of single values.

    Attributes:
        nulls: how many rows have no value.
        least, most: the ends of the numbers; infinite if there is none.
        is_known: whether every footer says it.
    """

    nulls: int = 0
    least: float = math.inf
    most: float = -math.inf
    is_known: bool = True

    def add(self, other: "Range") -> None:
        """Take in what other footers say."""
        self.nulls += other.nulls
        self.least, self.most = min(self.least, other.least), max(self.most, other.most)
        self.is_known = self.is_known and other.is_known


@dataclass
class Footers:
    """What is known of some files.

    Attributes:
        rows: of all files.
        columns: that each of the files has.
    """

    rows: int = 0
    columns: dict[str, Range] = field(default_factory=dict)


def read_footers(store: Store, files: Sequence[str]) -> Footers:
    """Return what the footers of files say; reads no row.

    Raises:
        ValueError: naming a file that is no Parquet file.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(lambda file: _read_footer(store, file), files))
    if not found:
        return Footers()
    total = Footers(sum(footer.rows for footer in found))
    for name in found[0].columns:
        if all(name in footer.columns for footer in found):
            total.columns[name] = Range()
            for footer in found:
                total.columns[name].add(footer.columns[name])
    return total


def _read_footer(store: Store, file: str) -> Footers:
    with open_parquet(store, file) as parquet:
        metadata, schema = parquet.metadata, parquet.schema_arrow
    leaves: list[str | None] = []
    for column in schema:
        count = _count_leaves(column.type)
        nested = pt.is_nested(column.type)
        leaves += [None if nested and count > 1 else column.name] * count
    found = Footers(metadata.num_rows, {name: Range() for name in schema.names})
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        for number, name in enumerate(leaves):
            if name is not None:
                found.columns[name].add(_range(group.column(number)))
    for column in schema:
        if pt.is_nested(column.type):
            # An empty list counts as a null one there.
            found.columns[column.name].nulls = 0
    return found


def _range(chunk: pq.ColumnChunkMetaData) -> Range:
    statistics = chunk.statistics
    if statistics is None or not statistics.has_null_count:
        return Range(is_known=False)
    if not statistics.has_min_max:
        return Range(statistics.null_count, is_known=statistics.null_count == chunk.num_values)
    least, most = statistics.min, statistics.max
    if not isinstance(least, int | float) or not isinstance(most, int | float):
        return Range(statistics.null_count)
    return Range(statistics.null_count, least, most)


def _count_leaves(kind: pa.DataType) -> int:
    if pt.is_struct(kind):
        return sum(_count_leaves(kind.field(i).type) for i in range(kind.num_fields))
    if pt.is_map(kind):
        return _count_leaves(kind.key_type) + _count_leaves(kind.item_type)
    return _count_leaves(kind.value_type) if is_list(kind) else 1
