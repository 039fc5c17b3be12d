"""Reads Parquet files to learn what they hold: a sample of the rows, all rows, or footers alone."""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt
from tqdm import tqdm

from mbrec.columns.hashing import hash_ids
from mbrec.reader.footers import open_file
from mbrec.reader.source import Store

SAMPLE_ROWS = 1 << 18
_PIECES = 64  # parts of the files that make up the sample
_BATCH_ROWS = 1 << 16
_HASHES = 1 << 62
_KEPT_HASHES = 1 << 16
_THREADS = 8


@dataclass
class Sample:
    """Rows from all over some files, in their order; `is_whole` if these are all rows."""

    table: pa.Table
    is_whole: bool


@dataclass
class Range:
    """What footers state about a column of single values.

    Attributes:
        nulls: rows without a value.
        least, most: the ends of the numbers; infinite if there are none.
        is_known: whether every footer states them.
    """

    nulls: int = 0
    least: float = math.inf
    most: float = -math.inf
    is_known: bool = True

    @property
    def has_infinities(self) -> bool:
        """Whether an infinity is among the numbers."""
        return self.least == -math.inf or self.most == math.inf


def open_parquet(store: Store, file: str) -> pq.ParquetFile:
    """Open a file of a data set.

    Raises:
        ValueError: naming a file that is not a Parquet file.
    """
    try:
        return open_file(file, store)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ValueError(
            f"{store.display(file)}: expected a Parquet file: {_first_line(error)}"
        ) from error


def read_schema(store: Store, file: str) -> pa.Schema:
    """Return the columns of a file; dictionaries have the type of their values.

    Raises:
        ValueError: if it is not a Parquet file, or has two columns of the same name.
    """
    with open_parquet(store, file) as parquet:
        schema = parquet.schema_arrow
    if len(set(schema.names)) < len(schema.names):
        raise ValueError(f"{store.display(file)}: expected different names, got {schema.names}")
    return pa.schema([(column.name, _without_dictionary(column.type)) for column in schema])


def read_batches(
    store: Store, files: Sequence[str], schema: pa.Schema, title: str, rows: int
) -> Iterator[tuple[int, pa.Table]]:
    """Yield all rows of some columns in batches, each with the number of its file.

    On a terminal, a progress bar with this title counts up to `rows`.

    Raises:
        ValueError: naming a file that cannot be read, or lacks a column.
    """
    bar = tqdm(desc=title, total=rows, unit=" rows", unit_scale=True, mininterval=1, disable=None)
    with bar:
        for number, file in enumerate(files):
            with open_parquet(store, file) as parquet:
                for batch in _read(parquet, schema, store.display(file), _BATCH_ROWS):
                    yield number, batch
                    bar.update(len(batch))


def read_sample(store: Store, files: Sequence[str], schema: pa.Schema) -> Sample:
    """Read at most `SAMPLE_ROWS` rows, evenly from the files and their row groups.

    Raises:
        ValueError: naming a file that cannot be read, or lacks a column.
    """
    chosen = _spread(len(files), _PIECES)
    pieces = -(-_PIECES // len(chosen))
    tables, is_whole = [schema.empty_table()], len(chosen) == len(files)
    for number in chosen:
        with open_parquet(store, files[number]) as parquet:
            name, groups = store.display(files[number]), _spread(parquet.num_row_groups, pieces)
            is_whole = is_whole and len(groups) == parquet.num_row_groups
            quota = SAMPLE_ROWS // _PIECES * max(1, pieces // max(1, len(groups)))
            for group in groups:
                rows = parquet.metadata.row_group(group).num_rows
                is_whole = is_whole and rows <= quota
                wanted = min(quota, rows)
                for batch in _read(parquet, schema, name, min(quota, _BATCH_ROWS), [group]):
                    tables.append(batch[:wanted])
                    wanted -= len(tables[-1])
                    if not wanted:
                        break
    return Sample(pa.concat_tables(tables), is_whole)


def read_footers(store: Store, files: Sequence[str]) -> tuple[int, dict[str, Range]]:
    """Return the number of rows in files, and the ranges of the columns that all of them have.

    Raises:
        ValueError: naming a file that is not a Parquet file.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(lambda file: _read_footer(store, file), files))
    columns: dict[str, list[Range]] = {}
    for _, ranges in found:
        for name, parts in ranges.items():
            columns.setdefault(name, []).extend(parts)
    common = [name for name in columns if all(name in ranges for _, ranges in found)]
    return sum(rows for rows, _ in found), {name: _merged(columns[name]) for name in common}


def count_distinct(
    store: Store, files: Sequence[str], schema: pa.Schema, rows: int
) -> dict[str, int]:
    """Return the number of different integers in each column, to within about one percent.

    Args:
        schema: columns of integers, or of lists of them.
        rows: of all files, for the progress bar.
    """
    thresholds = dict.fromkeys(schema.names, _HASHES)
    kept = dict.fromkeys(schema.names, np.empty(0, np.int64))
    for _, table in read_batches(store, files, schema, "counting ids", rows):
        for name in schema.names:
            array = table[name].combine_chunks()
            array = array.flatten() if is_list(array.type) else array
            hashes = hash_ids(array.drop_null().to_numpy(zero_copy_only=False), _HASHES)
            # Those below a threshold, which falls as their number grows.
            hashes = np.union1d(kept[name], hashes[hashes < thresholds[name]])
            while len(hashes) > _KEPT_HASHES:
                thresholds[name] //= 2
                hashes = hashes[hashes < thresholds[name]]
            kept[name] = hashes
    return {name: len(kept[name]) * (_HASHES // thresholds[name]) for name in schema.names}


def is_list(kind: pa.DataType) -> bool:
    """Return whether values of a type are lists."""
    return pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind)


def is_text(kind: pa.DataType) -> bool:
    """Return whether values of a type are strings."""
    return pt.is_string(kind) or pt.is_large_string(kind)


def _read(
    parquet: pq.ParquetFile,
    schema: pa.Schema,
    name: str,
    rows: int,
    groups: Sequence[int] | None = None,
) -> Iterator[pa.Table]:
    """Yield some columns of a file, cast to a schema, at most `rows` at a time."""
    if missing := [name for name in schema.names if name not in parquet.schema_arrow.names]:
        there = ", ".join(parquet.schema_arrow.names)
        raise ValueError(f"{name}: expected the columns {', '.join(missing)}, got {there}")
    try:
        for batch in parquet.iter_batches(rows, row_groups=groups, columns=schema.names):
            # A column with a dot in its name may bring another along.
            yield pa.Table.from_batches([batch]).select(schema.names).cast(schema)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ValueError(f"{name}: rows cannot be read: {_first_line(error)}") from error


def _read_footer(store: Store, file: str) -> tuple[int, dict[str, list[Range]]]:
    """Return the number of rows in a file, and the range of each column in each row group."""
    with open_parquet(store, file) as parquet:
        metadata, schema = parquet.metadata, parquet.schema_arrow
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    ranges, first = {}, 0
    for column in schema:
        leaves = _count_leaves(column.type)
        known = groups if leaves == 1 else []
        ranges[column.name] = [_range(group.column(first)) for group in known]
        if pt.is_nested(column.type):
            for part in ranges[column.name]:
                part.nulls = 0  # an empty list counts as a null one there
        first += leaves
    return metadata.num_rows, ranges


def _merged(parts: Sequence[Range]) -> Range:
    return Range(
        sum(part.nulls for part in parts),
        min((part.least for part in parts), default=math.inf),
        max((part.most for part in parts), default=-math.inf),
        all(part.is_known for part in parts),
    )


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
    return sum(_count_leaves(kind.field(i).type) for i in range(kind.num_fields)) or 1


def _spread(count: int, wanted: int) -> list[int]:
    """Return at most `wanted` of `count` positions, evenly spread."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, wanted))})


def _without_dictionary(kind: pa.DataType) -> pa.DataType:
    if pt.is_dictionary(kind):
        return kind.value_type
    if is_list(kind) and pt.is_dictionary(kind.value_type):
        return pa.list_(kind.value_type.value_type)
    return kind


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
