"""Reads the rows of Parquet files a batch at a time, to be looked at rather than trained on."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt
from tqdm import tqdm

from mbrec.columns.hashing import hash_ids
from mbrec.reader.footers import open_file
from mbrec.reader.source import Store

_BATCH_ROWS = 1 << 16
_HASHES = 1 << 62
_KEPT_HASHES = 1 << 16


def open_parquet(store: Store, file: str) -> pq.ParquetFile:
    """Open a file of a data set.

    Raises:
        ValueError: if it is no Parquet file.
    """
    try:
        return open_file(file, store)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ValueError(
            f"{store.display(file)}: expected a Parquet file: {_first_line(error)}"
        ) from error


def read_schema(store: Store, file: str) -> pa.Schema:
    """Return the columns of a file; those of dictionaries with the type of their values.

    Raises:
        ValueError: if it is no Parquet file, or has two columns of the same name.
    """
    with open_parquet(store, file) as parquet:
        schema = parquet.schema_arrow
    if len(set(schema.names)) < len(schema.names):
        raise ValueError(f"{store.display(file)}: expected different names, got {schema.names}")
    return pa.schema([(field.name, _plain(field.type)) for field in schema])


def read_file(
    parquet: pq.ParquetFile,
    schema: pa.Schema,
    name: str,
    rows: int,
    groups: Sequence[int] | None = None,
) -> Iterator[pa.Table]:
    """Yield rows of some columns, at most `rows` at a time.

    Args:
        parquet: the file.
        schema: the columns, and the types that they are cast to.
        name: of the file, for errors.
        rows: of a batch.
        groups: the row groups to read; default: all.

    Raises:
        ValueError: naming the file, if it cannot be read, or has no such columns.
    """
    names = schema.names
    if missing := [name for name in names if name not in parquet.schema_arrow.names]:
        there = ", ".join(parquet.schema_arrow.names)
        raise ValueError(f"{name}: expected the columns {', '.join(missing)}, got {there}")
    try:
        for batch in parquet.iter_batches(rows, row_groups=groups, columns=names):
            # A column with a dot in its name may bring another along.
            yield pa.Table.from_batches([batch]).select(names).cast(schema)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ValueError(f"{name}: rows cannot be read: {_first_line(error)}") from error


def read_batches(
    store: Store, files: Sequence[str], schema: pa.Schema, title: str, rows: int | None = None
) -> Iterator[tuple[int, pa.Table]]:
    """Yield all rows of some columns, a batch at a time; a terminal shows a bar.

    Args:
        store: the data set's folder.
        files: relative to it.
        schema: the columns, and the types that they are cast to.
        title: of the bar.
        rows: how many there will be, for the bar.

    Yields:
        The number of the file, and rows of it.

    Raises:
        ValueError: naming a file that cannot be read, or has no such columns.
    """
    bar = tqdm(desc=title, total=rows, unit=" rows", unit_scale=True, mininterval=1, disable=None)
    with bar:
        for index, file in enumerate(files):
            with open_parquet(store, file) as parquet:
                for batch in read_file(parquet, schema, store.display(file), _BATCH_ROWS):
                    yield index, batch
                    bar.update(len(batch))


def count_distinct(
    store: Store, files: Sequence[str], schema: pa.Schema, rows: int | None = None
) -> dict[str, int]:
    """Return how many different integers each column has, to within about one percent.

    Args:
        store: the data set's folder.
        files: relative to it.
        schema: columns of integers, or of lists of them.
        rows: how many there are, for the bar.
    """
    thresholds = dict.fromkeys(schema.names, _HASHES)
    kept = dict.fromkeys(schema.names, np.empty(0, np.int64))
    for _, table in read_batches(store, files, schema, "counting ids", rows):
        for name in schema.names:
            array = table[name].combine_chunks()
            array = array.flatten() if is_list(array.type) else array
            hashes = hash_ids(array.drop_null().to_numpy(zero_copy_only=False), _HASHES)
            # Those below a threshold, which falls as there are more of them.
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


def _plain(kind: pa.DataType) -> pa.DataType:
    if pt.is_dictionary(kind):
        return kind.value_type
    if is_list(kind) and pt.is_dictionary(kind.value_type):
        return pa.list_(kind.value_type.value_type)
    return kind


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
